"""Activation checkpointing: both kinds, added up in one gradient."""
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
inputs = x.clone().requires_grad_()
for reentrant in (True, False):
    mse(net[2](checkpoint(net[:2], inputs, use_reentrant=reentrant))).backward()
results = [inputs.grad, *gradients(net)]
optimizer.step()
results += weights(net)
