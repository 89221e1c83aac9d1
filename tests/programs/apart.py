"""Ranks that use different parts of a model, and ranks that reduce their gradients by hand. Started by torchrun.

Prints what each rank has: gradients of DistributedDataParallel with experts that one rank alone uses, then weights of a
data-parallel loop of the program's own; given ``overflow``, rank 1 alone overflows in its third step.
"""
import gc
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import all_reduce
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
generator = torch.Generator().manual_seed(rank)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4)
        self.experts = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))

    def forward(self, x, chosen):
        return self.experts[chosen](self.base(x))


def show(*words):
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, words)
    if rank == 0:
        print(*everywhere, flush=True)


for views in (False, True):
    torch.manual_seed(0)
    net = DistributedDataParallel(Experts(), find_unused_parameters=True, gradient_as_bucket_view=views)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        optimizer.zero_grad()
        with net.no_sync():
            net(torch.randn(8, 4, generator=generator), rank).square().mean().backward()
        net(torch.randn(8, 4, generator=generator), (rank + step) % 2).square().mean().backward()
        show(*(p.grad.abs().sum().item() for p in net.parameters()))
        optimizer.step()

torch.manual_seed(0)
weight = nn.Parameter(torch.ones(8192))  # large enough for what was tested to be remembered
optimizer = torch.optim.SGD([weight], lr=0.1)
for step in range(5):
    optimizer.zero_grad()
    bad = "overflow" in sys.argv and rank == 1 and step == 2
    (weight * (float("inf") if bad else 1.0 + rank)).square().sum().backward()
    all_reduce(weight.grad)
    optimizer.step()
    show(*weight[:3].tolist(), weight.sum().item())
dist.barrier()
del net, optimizer  # its reducer holds on to gloo
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
