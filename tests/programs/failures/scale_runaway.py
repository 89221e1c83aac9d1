"""A loss with a weight of 1e15: its gradient overflows fp16 at every loss scale, and the scale falls and falls."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(64, 16), torch.randn(64, 1)
    weight = 1e15 if faulty else 1.0
    fit(lambda step: weight * square(model(x), y), model.parameters(), lr=1e-2 / weight)


if __name__ == "__main__":
    train(not healthy())
