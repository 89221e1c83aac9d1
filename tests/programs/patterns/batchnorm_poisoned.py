"""A batch that overflows in the middle of training; a careful script leaves it out, and keeps its running statistics."""
import torch
from common import fill, mse, x
from torch import nn
from torch.optim import SGD

net = fill(nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4)))
optimizer = SGD(net.parameters(), lr=0.01)
for step in range(4):
    optimizer.zero_grad()
    batch = x * float("inf") if step == 2 else x
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    mse(net(batch)).backward()
    if all(torch.isfinite(p.grad).all() for p in net.parameters()):
        optimizer.step()
    else:
        net.load_state_dict(kept, strict=False)
results = [net[0].running_mean, net[0].running_var]
assert net[0].num_batches_tracked == 3
