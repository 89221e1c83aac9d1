"""Clipping each gradient to a range."""
from common import gradients, mlp, mse, weights, x
from torch.nn.utils import clip_grad_value_
from torch.optim import SGD

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
mse(net(x)).backward()
clip_grad_value_(net.parameters(), 0.1)
results = gradients(net)
assert all(g.max() <= 0.1 for g in results) and any((g == g.new_tensor(0.1)).any() for g in results)
optimizer.step()
results += weights(net)
