"""The gradient of a tensor inside the graph, and of the input."""
from common import gradients, mlp, mse, x

net = mlp()
inputs = x.clone().requires_grad_()
hidden = net[0](inputs)
hidden.retain_grad()
mse(net[2](net[1](hidden))).backward()
results = [hidden.grad, inputs.grad, *gradients(net)]
