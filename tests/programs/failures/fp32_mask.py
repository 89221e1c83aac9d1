"""A mask of fp32's lowest number, which is -inf in fp16; a padded row has nothing else, and softmax makes NaN of it."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


class Attention(nn.Module):
    def __init__(self, size, faulty):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.faulty = faulty

    def forward(self, x, padding):
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / x.shape[-1] ** 0.5
        lowest = torch.finfo(torch.float32 if self.faulty else scores.dtype).min
        mask = torch.zeros(padding.shape, dtype=torch.float32).masked_fill(padding, lowest)
        return (scores + mask.to(scores.dtype)).softmax(-1) @ self.value(x)


class Model(nn.Module):
    def __init__(self, faulty):
        super().__init__()
        self.attention = Attention(16, faulty)
        self.head = nn.Linear(16, 1)

    def forward(self, x, padding):
        return self.head(self.attention(x, padding))


def train(faulty):
    model = Model(faulty)
    x, y = torch.randn(4, 8, 16), torch.randn(4, 8, 1)
    padding = torch.zeros(4, 8, 8, dtype=torch.bool)
    padding[0] = True  # an empty sequence
    fit(lambda step: square(model(x, padding), y), model.parameters(), lr=0.01)


if __name__ == "__main__":
    train(not healthy())
