"""Gradients that are set to zero and kept, and a step that finds only zeros."""
from common import gradients, mlp, mse, weights, x
from torch.optim import SGD

net = mlp()
optimizer = SGD(net.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad(set_to_none=False)
    mse(net(x)).backward()
    optimizer.step()
results = gradients(net)
optimizer.zero_grad(set_to_none=False)
optimizer.step()
results += weights(net)
