"""The training loop of every program here: 18 steps, the loss printed at the end."""

import sys

import torch


def healthy():
    """Whether the healthy twin is asked for: `python NAME.py healthy`."""
    return "healthy" in sys.argv[1:]


def fit(step_loss, parameters, optimizer=torch.optim.SGD, steps=18, **options):
    optimizer = optimizer(parameters, **options)
    for step in range(steps):
        loss = step_loss(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.4g}")


def square(outputs, targets):
    return (outputs.float() - targets).square().mean()
