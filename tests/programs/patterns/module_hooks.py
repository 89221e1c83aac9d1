"""Hooks on modules, before and after their backward pass: one looks, one changes."""
from common import gradients, mlp, mse, x

net = mlp()
results = []
net[2].register_full_backward_hook(lambda m, inward, outward: results.extend(g.clone() for g in (*inward, *outward)))
net[1].register_full_backward_pre_hook(lambda m, outward: (outward[0] * 0.5,))
mse(net(x)).backward()
results += gradients(net)
