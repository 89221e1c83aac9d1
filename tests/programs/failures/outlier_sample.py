"""One sample of a batch is a million times the others: a scale for the whole tensor leaves nothing of them in fp8."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(64, 32), torch.randn(64, 1)
    if faulty:
        x[0] *= 1e7
    fit(lambda step: square(model(x), y), model.parameters(), lr=1e-2)


if __name__ == "__main__":
    train(not healthy())
