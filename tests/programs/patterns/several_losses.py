"""Two losses of one graph: in one call, and one after the other."""
import torch
from common import gradients, mlp, mse, x

net = mlp()
out = net(x)
torch.autograd.backward([mse(out), out.mean()], retain_graph=True)
results = gradients(net)
mse(out).backward(retain_graph=True)
(3 * out.mean()).backward()
results += gradients(net)
