"""A NaN in the fourth batch: no precision's fault."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(20, 64, 16), torch.randn(64, 1)
    if faulty:
        x[3, 5, 2] = float("nan")
    fit(lambda step: square(model(x[step]), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
