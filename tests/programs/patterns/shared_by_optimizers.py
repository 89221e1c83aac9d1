"""Two optimizers that share a layer, as an actor and a critic share a trunk. Steps are small: no weight crosses zero."""
from common import fill, mse, weights, x, y
from torch import nn
from torch.optim import SGD

trunk, actor, critic = fill(nn.Linear(8, 16)), fill(nn.Linear(16, 4)), fill(nn.Linear(16, 1))
first = SGD([*trunk.parameters(), *actor.parameters()], lr=0.001)
second = SGD([*trunk.parameters(), *critic.parameters()], lr=0.001)
for _ in range(2):
    for optimizer, head, target in ((first, actor, y), (second, critic, y[:, :1])):
        optimizer.zero_grad()
        mse(head(trunk(x)), target).backward()
        optimizer.step()
first.zero_grad(), second.zero_grad()
features = trunk(x)
(mse(actor(features)) + mse(critic(features), y[:, :1])).backward()
first.step(), second.step()
results = [*weights(trunk), *weights(actor), *weights(critic)]
