"""Clipping by the norm of all gradients; the norm is shown to the user."""
from common import gradients, mlp, mse, weights, x
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01, momentum=0.9)
results = []
for _ in range(3):
    optimizer.zero_grad()
    mse(net(x)).backward()
    results += [clip_grad_norm_(net.parameters(), 0.05), *gradients(net)]
    optimizer.step()
results += weights(net)
