"""An optimizer made before the model moves to its device, and one made after."""
import torch
from common import mlp, mse, weights, x
from torch.optim import SGD

device = "cuda" if torch.cuda.is_available() else "cpu"
results = []
for before in (True, False):
    net = mlp()
    if before:
        optimizer = SGD(net.parameters(), lr=0.01)
    net = net.to(device).share_memory()
    if not before:
        optimizer = SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        mse(net(x.to(device)).cpu()).backward()
        optimizer.step()
    results += [w.cpu() for w in weights(net)]
