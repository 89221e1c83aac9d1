"""Stochastic weight averaging with its scheduler; the running statistics are computed anew in the end."""
from common import fill, mse, weights, x
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

# Normalising takes the mean away, so these gradients cancel; at such a rate they are a small part of any weight.
net = fill(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)))
average = AveragedModel(net)
optimizer = SGD(net.parameters(), lr=0.001)
scheduler = SWALR(optimizer, swa_lr=0.0005, anneal_epochs=1)
for _ in range(3):
    optimizer.zero_grad()
    mse(net(x)).backward()
    optimizer.step()
    average.update_parameters(net)
    scheduler.step()
update_bn([x], average)
results = [average.module[1].running_mean, *weights(average)]
