"""A script that holds its weights in bf16 itself, and a learning rate whose updates they cannot hold."""

import torch
import torch.nn as nn
from loop import fit, healthy, square


def train(faulty):
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)).bfloat16()
    x, y = torch.randn(64, 16).bfloat16(), torch.randn(64, 1).bfloat16()
    fit(lambda step: square(model(x), y), model.parameters(), torch.optim.Adam, lr=1e-6 if faulty else 1e-2)


if __name__ == "__main__":
    train(not healthy())
