"""``torch.func``: the gradient as a function, and one gradient a sample."""
import torch
from common import mlp, mse, x, y
from torch.func import functional_call, grad, vmap

net = mlp()
parameters = {name: p.detach() for name, p in net.named_parameters()}


def loss(p, inputs, targets):
    return mse(functional_call(net, p, (inputs,)), targets)


results = list(grad(loss)(parameters, x, y).values())
per_sample = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
results += per_sample.values()
