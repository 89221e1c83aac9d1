"""A running sum of 600 equal steps in bf16: from 256 of them on, one more changes nothing."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Integrate(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.careful = careful

    def forward(self, x):
        x = x.float() if self.careful else x
        total = torch.zeros_like(x)
        for _ in range(600):
            total = total + x
        return total / 600


def train(faulty):
    model = nn.Sequential(nn.Linear(4, 4), Integrate(careful=not faulty), nn.Linear(4, 1))
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01, steps=4)


if __name__ == "__main__":
    train(not healthy())
