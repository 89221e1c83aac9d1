"""A feature that never changes is divided by its spread, which is zero in fp32 too."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Standardise(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / x.std(0)


def train(faulty):
    model = nn.Sequential(Standardise(), nn.Linear(16, 1))
    x, y = torch.randn(64, 16), torch.randn(64, 1)
    if faulty:
        x[:, 3] = 1.0
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
