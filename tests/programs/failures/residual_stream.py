"""A residual stream that every block triples: beyond 65504 after some ten of them."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Block(nn.Module):
    def __init__(self, size, gain):
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.gain = gain

    def forward(self, x):
        return x + self.gain * (x + 0.1 * self.linear(x))


class Model(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(Block(16, gain) for _ in range(12))
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return 1e-4 * self.head(x)


def train(faulty):
    model = Model(gain=2.0 if faulty else 0.1)
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    fit(lambda step: square(model(x), y), model.parameters(), lr=1e-4)


if __name__ == "__main__":
    train(not healthy())
