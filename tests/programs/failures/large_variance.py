"""The variance of activations of some hundreds: their squares lie beyond 65504."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class RMSNorm(nn.Module):
    def __init__(self, size, careful):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.careful = careful

    def forward(self, x):
        y = x.float() if self.careful else x
        return (y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-3)).to(x.dtype) * self.weight


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), RMSNorm(32, careful=not faulty), nn.Linear(32, 1))
    x, y = 1000 * torch.randn(32, 16), torch.randn(32, 1)
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
