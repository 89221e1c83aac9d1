"""DDP on two processes under bf16-lean, and under bf16 with weights that the program rounds at each use.

A line for each way: whether the losses, the weights and AdamW's state are those of the rounded weights, bit for bit,
and whether both processes have the same; at last whether a process may take bf16-lean off again.
"""

import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import halfstep
from rounded_weights import RoundedLinear

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
STEPS, PASSES = 4, 3


def make(linear):
    torch.manual_seed(rank)  # DDP gives all processes the weights of the first
    return nn.Sequential(linear(8, 16), nn.Tanh(), nn.LayerNorm(16), linear(16, 16), nn.GELU(), linear(16, 2))


def reduce_in_bf16(state, bucket):
    """What bf16-lean's DDP does: gradients of split weights are rounded to bf16, halved, and added up in bf16."""
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
        part = gradient.to(torch.bfloat16 if parameter.ndim > 1 else torch.float32) / ranks
        dist.all_reduce(part)
        gradient.copy_(part)
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def train(linear, first, sync, **options):
    net = make(linear)
    if first:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    replica = DistributedDataParallel(net, **options)
    if not first:
        optimizer = torch.optim.AdamW(replica.parameters(), lr=0.01)
    if linear is RoundedLinear:
        replica.register_comm_hook(None, reduce_in_bf16)
    losses = []
    for step in range(STEPS):
        for part in range(PASSES):
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * step + 10 * part + rank))
            replica.require_backward_grad_sync = sync or part == PASSES - 1  # as no_sync()
            loss = (replica(x) - x[:, :2].sin()).square().mean() / PASSES
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    state = optimizer.state_dict()["state"]
    moments = [state[i][name] for i in state for name in ("exp_avg", "exp_avg_sq")]
    return [value.clone() for value in (torch.stack(losses), *replica.module.state_dict().values(), *moments)], net


def agree(tensors):
    mine = torch.cat([t.double().flatten() for t in tensors])
    everywhere = [torch.zeros_like(mine) for _ in range(ranks)]
    dist.all_gather(everywhere, mine)
    return all(torch.equal(mine, other) for other in everywhere)


WAYS = {
    "plain": (False, False, {}),
    "first": (True, False, {"gradient_as_bucket_view": True}),
    "synchronized": (False, True, {"find_unused_parameters": True}),
    "static": (False, True, {"static_graph": True}),
}

halfstep.enable("bf16")
expected = {way: train(RoundedLinear, first, sync, **options)[0] for way, (first, sync, options) in WAYS.items()}
halfstep.disable()
halfstep.enable("bf16-lean")
for way, (first, sync, options) in WAYS.items():
    found, net = train(nn.Linear, first, sync, **options)
    same = all(torch.equal(a, b) for a, b in zip(found, expected[way], strict=True))
    stored = torch.ops.aten.alias(net[0].weight).dtype
    if rank == 0:
        print(way, "as rounded", same, "all alike", agree(found[1:]), stored, flush=True)
    else:
        agree(found[1:])
try:
    halfstep.disable()
except halfstep.HalfstepError as error:
    if rank == 0:
        print(error, flush=True)
dist.barrier()
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
