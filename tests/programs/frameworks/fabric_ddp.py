"""Fabric on the processes that `fabric run` starts."""
import torch
from lightning.fabric import Fabric
from torch.nn import functional as F

fabric = Fabric()
torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.05))
x = torch.randn(16, 8)
for _ in range(10):
    optimizer.zero_grad()
    fabric.backward(F.mse_loss(model(x).squeeze(), x.sum(1)))
    optimizer.step()
