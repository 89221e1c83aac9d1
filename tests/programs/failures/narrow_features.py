"""Features that hardly differ from 1.95: the scale of their blocks is 1/4 in MXFP4, whose largest number is then 1.5."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(16, 64), torch.randn(16, 1)
    if faulty:
        x = 1.95 + 0.01 * x
    fit(lambda step: square(model(x), y), model.parameters(), lr=1e-2)


if __name__ == "__main__":
    train(not healthy())
