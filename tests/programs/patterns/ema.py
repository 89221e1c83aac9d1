"""A moving average of the weights, updated after every step, evaluated in the end."""
import torch
from common import mlp, mse, weights, x
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

net = mlp()
average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
optimizer = SGD(net.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    mse(net(x)).backward()
    optimizer.step()
    average.update_parameters(net)
with torch.no_grad():
    results = [average(x).to(x.dtype), *weights(average)]
