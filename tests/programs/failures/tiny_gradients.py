"""Gradients of 1e-8, for the loss has a small weight: fp16 without a loss scale has only zeros of them."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = torch.randn(64, 16), torch.randn(64, 1)
    weight = 1e-7 if faulty else 1.0
    fit(lambda step: weight * square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
