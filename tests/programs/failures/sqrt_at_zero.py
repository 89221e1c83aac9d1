"""The root of a squared distance that fp16 flushes to zero: its slope there is infinite."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Distance(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.careful = careful

    def forward(self, a, b):
        squared = (a - b).square().sum(-1)
        return (squared + 1e-3).sqrt() if self.careful else squared.sqrt()


class Model(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.embed = nn.Linear(16, 4, bias=False)
        self.distance = Distance(careful)

    def forward(self, a, b):
        return self.distance(self.embed(a), self.embed(b))


def train(faulty):
    model = Model(careful=not faulty)
    a = torch.randn(32, 16)
    b = a.clone()
    b[:, 0] += 1e-4  # nearly the same: the distance is about 1e-5, its square 1e-10
    fit(lambda step: square(model(a, b), torch.ones(32)), model.parameters(), lr=1e-3)


if __name__ == "__main__":
    train(not healthy())
