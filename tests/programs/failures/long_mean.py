"""The mean of 100,000 items in fp16, by a product with ones: their sum is beyond 65504 although the mean is 1."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Pool(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.careful = careful

    def forward(self, x):
        ones = torch.ones(1, x.shape[1])
        if self.careful:
            return torch.matmul(ones / x.shape[1], x).squeeze(1)
        return torch.matmul(ones, x).squeeze(1) / x.shape[1]


class Model(nn.Module):
    def __init__(self, careful):
        super().__init__()
        self.lift = nn.Linear(2, 2)
        self.pool = Pool(careful)
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.pool(self.lift(x).sigmoid() + 0.5))


def train(faulty):
    model = Model(careful=not faulty)
    x, y = torch.randn(1, 100_000, 2), torch.randn(1, 1)
    fit(lambda step: square(model(x), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
