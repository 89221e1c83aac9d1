"""DDP and FSDP2 on two processes: ``distributed_amp.py [FORMAT]`` trains by an AMP loop written by hand, or in fp32.

A line for each step: the way, the step, rank 0's loss. At the end the ranks' weights: their sum and sum of squares.
"""

import contextlib
import gc
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(sys.argv[1] if sys.argv[1:] else "fp32")
STEPS, BATCH, PASSES, BAD = 8, 8, 2, 5

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
data = torch.randn(STEPS, PASSES, ranks, BATCH, 16, generator=torch.Generator().manual_seed(1))


def make():
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.Tanh(), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
    return nn.Sequential(*layers)


def shard():
    net = make()
    for layer in (net[0], net[3], net):
        fully_shard(layer)
    return net


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


for way, net in (("ddp", DistributedDataParallel(make())), ("fsdp", shard())):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=DTYPE is torch.float16)
    for step, parts in enumerate(data):
        losses = []
        for inputs in parts[:, rank]:
            with torch.autocast("cpu", dtype=DTYPE) if DTYPE else contextlib.nullcontext():
                outputs = net(inputs)
            loss = nn.functional.mse_loss(outputs.float(), inputs.sum(-1, keepdim=True).sin())
            losses.append(loss.item())
            # One rank's alone is infinite, once, where the loss is scaled.
            factor = torch.inf if (step, rank) == (BAD, 1) and "bad" in sys.argv else 1.0
            scaler.scale(loss * factor / PASSES).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if rank == 0:
            print(way, step, repr(sum(losses) / PASSES), flush=True)
        whole(norm)
    weights = torch.cat([whole(p.detach()).double().flatten() for p in net.parameters()])
    sums = torch.stack([weights.square().sum(), weights.sum()])
    everywhere = [torch.zeros_like(sums) for _ in range(ranks)]
    dist.all_gather(everywhere, sums)
    if rank == 0:
        print(way, "agree", torch.equal(*everywhere), *map(repr, sums.tolist()), flush=True)
dist.barrier()
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
