"""Weights in bf16 and updates of 1e-5 of them: weight + update == weight."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(64, 16), torch.randn(64, 1)
    fit(lambda step: square(model(x), y), model.parameters(), torch.optim.Adam, lr=1e-6 if faulty else 1e-2)


if __name__ == "__main__":
    train(not healthy())
