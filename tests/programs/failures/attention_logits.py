"""Attention logits beyond 65504: nobody divides by the root of the head's size, and the weights are large."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Attention(nn.Module):
    def __init__(self, size, gain):
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.gain = gain

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        logits = (self.gain * q) @ (self.gain * k).transpose(-2, -1)
        return logits.softmax(-1) @ v


class Model(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.attention = Attention(32, gain)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.attention(x))


def train(faulty):
    model = Model(gain=300.0 if faulty else 0.4)
    x, y = torch.randn(4, 8, 32), torch.randn(4, 8, 1)
    fit(lambda step: square(model(x), y), model.parameters(), lr=1e-4)


if __name__ == "__main__":
    train(not healthy())
