"""One token makes up the whole text: its gradient is a sum of thousands in 16 bits, and stops growing."""

import torch
import torch.nn as nn
from loop import fit, healthy


class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 4)
        self.head = nn.Linear(4, 1).requires_grad_(False)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def train(faulty):
    model = Model(4096)
    tokens = torch.zeros(4096, dtype=torch.long) if faulty else torch.randperm(4096)
    fit(lambda step: (model(tokens).float() - 3).mean().square(), model.embedding.parameters(), lr=30)


if __name__ == "__main__":
    train(not healthy())
