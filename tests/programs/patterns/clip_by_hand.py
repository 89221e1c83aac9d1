"""Clipping written out: the script computes the norm and multiplies ``.grad`` itself."""
import torch
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
mse(net(x)).backward()
norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
for p in net.parameters():
    p.grad.data.mul_(0.05 / norm)
results = [norm, *gradients(net)]
optimizer.step()
results += weights(net)
