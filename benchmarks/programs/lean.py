"""Trains layers whose parameters dominate, and prints what that took, as JSON.

python lean.py large|small|many OPTIMIZER freed|live|accumulated none|hand ROWS STEPS [--compile]
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from statistics import median

import torch
from torch import Tensor, nn

#: width of a layer, and how many there are
NETWORKS = {"large": (2048, 8), "small": (512, 8), "many": (64, 150)}


def held() -> int:
    """Bytes that this process has held resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Layers(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """One of torch.optim's, or of a peer's that is installed."""
    if name == "torchao":
        from torchao.optim import _AdamW

        return _AdamW(model.to(torch.bfloat16).parameters(), lr=1e-3, bf16_stochastic_round=True)  # type: ignore[no-any-return]
    if name == "optimi":
        from optimi import AdamW

        return AdamW(model.to(torch.bfloat16).parameters(), lr=1e-3, kahan_sum=True)  # type: ignore[no-any-return]
    more = {"momentum": 0.9} if name == "SGD" else {}
    made: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3, **more)
    return made


def warm_up(name: str, dtype: torch.dtype) -> None:
    """Import and compile what a training needs: on a small one it would weigh more than the numbers do."""
    model = Layers(8, 1)
    optimizer = optimizer_for(name, model)
    for _ in range(3):
        model(torch.randn(4, 8).to(dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    network, name, mode, amp, rows, steps = *sys.argv[1:5], *map(int, sys.argv[5:7])
    if amp == "hand":
        # the same kernels for 16-bit products as under halfstep
        from halfstep.pytorch.products.products import install

        install([torch.bfloat16], "auto")
    width, count = NETWORKS[network]
    torch.manual_seed(0)
    dtype = torch.bfloat16 if name in ("torchao", "optimi") else torch.float32
    warm_up(name, dtype)
    before = held()
    model = Layers(width, count)
    optimizer = optimizer_for(name, model)
    called = torch.compile(model) if "--compile" in sys.argv else model
    seconds, losses = [], []
    for step in range(steps):
        started = time.perf_counter()
        if mode == "freed":
            optimizer.zero_grad()
        for part in range(2 if mode == "accumulated" else 1):
            generator = torch.Generator().manual_seed(2 * step + part)
            x = torch.randn(rows, width, generator=generator).to(dtype)
            with torch.autocast("cpu", torch.bfloat16) if amp == "hand" else contextlib.nullcontext():
                loss = (called(x).float() - x.float().roll(1, 1)).square().mean()
            if mode == "live" or (mode == "accumulated" and part == 0):
                optimizer.zero_grad()  # the last step's gradients have lived through the forward pass
            loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    parameters = sum(p.numel() for p in model.parameters())
    told = {"parameters": parameters, "bytes": held() - before, "losses": losses}
    print(json.dumps(told | {"seconds": median(seconds[1:] or seconds)}))


if __name__ == "__main__":
    main()
