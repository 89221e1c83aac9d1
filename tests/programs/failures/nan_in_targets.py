"""A NaN among the targets, which no module is given: no precision's fault."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(64, 16), torch.randn(64, 1)
    if faulty:
        y[3] = float("nan")
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
