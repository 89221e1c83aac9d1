"""Hooks on parameters: one looks, one changes, one runs after accumulation."""
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
results = []
net[0].weight.register_hook(lambda g: results.append(g.clone()))
net[2].weight.register_hook(lambda g: g.clamp(max=0.2))
net[2].bias.register_post_accumulate_grad_hook(lambda p: results.append(p.grad.clone()))
mse(net(x)).backward()
results += gradients(net)
optimizer.step()
results += weights(net)
