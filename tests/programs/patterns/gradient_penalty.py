"""A penalty on the slope at the input, as WGAN-GP has: ``autograd.grad`` with ``create_graph``, then a backward pass of it."""
import torch
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD

roundings = 72  # a pass through two layers (24), the pass of its pass and the forward pass again
net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
inputs = x.clone().requires_grad_()
out = net(inputs)
(slope,) = torch.autograd.grad(out.sum(), inputs, create_graph=True)
results = [slope.detach()]
(mse(out) + slope.square().sum(1).mean()).backward()
# tanh bends down: in the first layer's gradient the two parts differ in sign and cancel, so only the last is shown
results += gradients(net)[2:3]
