"""Frozen layers in the middle, and parameters of which no loss depends."""
from common import fill, gradients, mse, weights, x
from torch import nn
from torch.optim import SGD

net = fill(nn.ModuleDict({"first": nn.Linear(8, 8), "frozen": nn.Linear(8, 4), "unused": nn.Linear(4, 4)}))
net["frozen"].requires_grad_(False)
optimizer = SGD(net.parameters(), lr=0.01)
for _ in range(2):
    optimizer.zero_grad()
    mse(net["frozen"](net["first"](x).tanh())).backward()
    optimizer.step()
assert net["frozen"].weight.grad is None and net["unused"].weight.grad is None
results = [*gradients(net), *weights(net)]
