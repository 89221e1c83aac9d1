"""Trains on batches of a given size; a sample takes 256 KiB of activations in fp32."""

from __future__ import annotations

import argparse

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--steps", type=int, default=6)
arguments = parser.parse_args()

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 65536), torch.nn.Tanh(), torch.nn.Linear(65536, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
for _ in range(arguments.steps):
    loss = model(torch.randn(arguments.batch_size, 8)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
