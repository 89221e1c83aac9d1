"""A vector of zeros is divided by its largest number plus 1e-12, which is 0 in fp16."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Unit(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x / (x.abs().amax(-1, keepdim=True) + self.eps)


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 8, bias=False), Unit(1e-12 if faulty else 1e-3), nn.Linear(8, 1))
    x, y = torch.randn(32, 16), torch.randn(32, 1)
    x[5] = 0  # padding
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
