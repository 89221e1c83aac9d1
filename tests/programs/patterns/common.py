"""The numbers that the patterns train on: the same in every dtype, and such that nothing cancels.

Inputs and weights are positive and targets negative, so every gradient is a sum of terms of one sign, and its relative
error is at most that of its worst term.
"""
import torch
from torch import nn


def positive(*shape, seed=0, top=1.0):
    """Multiples of 1/256 between ``top / 2`` and ``top``: exact in fp32, not in bf16."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(129, 257, shape, generator=generator) * (top / 256)).to(torch.get_default_dtype())


def fill(net):
    """Positive weights that keep the sum of a row at most 1."""
    with torch.no_grad():
        for seed, p in enumerate(net.parameters()):
            p.copy_(positive(*p.shape, seed=seed, top=1 / 8 if p.dim() < 2 else 1 / p.shape[1]))
    return net


def mlp():
    return fill(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)))


x, y = positive(12, 8, seed=100), -positive(12, 4, seed=101)


def mse(out, target=y):
    return (out - target).square().mean()


def gradients(net):
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def weights(net):
    return [p.detach().clone() for p in net.parameters()]
