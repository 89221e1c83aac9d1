"""Every way that PyTorch spreads a training over processes; in each, one rank alone overflows in step 2.

Started by torchrun with two processes. One line a way: whether the ranks agree, what was skipped, and how the gradients
of the first step compare with those of one process that has the whole batch.
"""
import contextlib
import gc

import halfstep
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (world,))
generator = torch.Generator().manual_seed(1)
x, y = torch.randn(8 * world, 8, generator=generator), torch.randn(8 * world, 4, generator=generator)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def ddp():
    return DistributedDataParallel(model())


def fsdp():
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh)
    return net


def fsdp_with_policy():
    net = model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return net


def tensor_parallel():
    return parallelize_module(model(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor, split):
    return tensor.chunk(world)[rank] if split else tensor


def backward(net, split, factor):
    """Gradients of the mean over the whole batch, in two micro-batches; the first without communication."""
    for last, inputs, targets in zip((False, True), part(x, split).chunk(2), part(y, split).chunk(2)):
        if hasattr(net, "set_requires_gradient_sync"):
            net.set_requires_gradient_sync(last)
        with net.no_sync() if isinstance(net, DistributedDataParallel) and not last else contextlib.nullcontext():
            ((whole(net(inputs)).float() - targets).square().mean() / 2 * factor).backward()


def overflow_in_own_shard(net):
    for p in net.parameters():
        p.grad.to_local().fill_(float("inf"))


single = model()
(single(x).float() - y).square().mean().backward()
exact = [p.grad.clone() for p in single.parameters()]

for make, split in ((ddp, True), (fsdp, True), (fsdp_with_policy, True), (tensor_parallel, False)):
    net = make()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    skipped_before = halfstep.skipped_steps()
    for step in range(5):
        optimizer.zero_grad()
        bad = step == 2 and rank == 1
        sharded = isinstance(next(net.parameters()), DTensor)
        backward(net, split, float("inf") if bad and not sharded else 1.0)
        if bad and sharded:
            overflow_in_own_shard(net)
        if step == 0:
            error = max(
                ((whole(p.grad) - e).abs().max() / e.abs().max()).item() for p, e in zip(net.parameters(), exact)
            )
        if step == 2:
            kept = [whole(p.detach()).clone() for p in net.parameters()]
        optimizer.step()
        if step == 2:
            untouched = all(torch.equal(whole(p.detach()), k) for p, k in zip(net.parameters(), kept))
    skipped = halfstep.skipped_steps() - skipped_before
    sums = torch.stack([whole(p.detach()).double().sum() for p in net.parameters()])
    everywhere = [torch.zeros_like(sums) for _ in range(world)]
    dist.all_gather(everywhere, sums)
    agree = all(torch.equal(sums, other) for other in everywhere)
    counts = [None] * world
    dist.all_gather_object(counts, skipped)
    if rank == 0:
        print(make.__name__, "agree" if agree else "DIFFER", "untouched" if untouched else "CHANGED",
              f"skipped {counts}", f"error {error:.2g}", flush=True)
dist.barrier()
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
