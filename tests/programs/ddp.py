"""Distributed data parallel on two processes; one rank overflows when it is told to."""
import gc
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
torch.manual_seed(1 + rank)
x, y = torch.randn(16, 8), torch.randn(16, 1)
for step in range(10):
    if step == 5 and rank == 1 and "die" in sys.argv:
        os.kill(os.getpid(), 9)
    if step == 5 and "hang" in sys.argv:
        time.sleep(600)
    optimizer.zero_grad()
    with model.no_sync():
        (model(x[:8]) - y[:8]).float().square().mean().backward()
    loss = (model(x[8:]) - y[8:]).float().square().mean()
    if step == 5 and rank == 1 and "overflow" in sys.argv:
        loss = loss * float("inf")
    loss.backward()
    optimizer.step()
total = torch.stack([p.detach().double().sum() for p in model.parameters()]).sum()
everywhere = [torch.zeros_like(total) for _ in range(dist.get_world_size())]
dist.all_gather(everywhere, total)
assert everywhere[0] == everywhere[1], "the ranks have drifted apart"
if rank == 0:
    print("weights", repr(total.item()))
dist.barrier()
dist.destroy_process_group()
gc.collect()  # gloo that outlives the interpreter aborts the process now and then
