"""Trains a network for a few steps and prints how many bytes more it held at most than before it was made.

python peak_memory.py gpt|gpt-loss-inside|cnn|layers none|hand|accelerate STEPS
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, LENGTH, BATCH = 50_000, 256, 128, 4


def held() -> int:
    """Bytes that this process has held resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Gpt(nn.Module):
    """Two layers; with targets it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        logits = self.head(self.body(self.embed(ids), mask=mask, is_causal=True))
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def cnn() -> nn.Module:
    """Eight convolutions with BatchNorm."""
    sizes = [3, *[48] * 8]
    blocks = [
        part
        for a, b in itertools.pairwise(sizes)
        for part in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


Prepare = Callable[[nn.Module], Any]


def program(network: str, prepare: Prepare) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """What is trained, and its loss."""
    torch.manual_seed(0)
    if network.startswith("gpt"):
        gpt = Gpt()
        model, ids = prepare(gpt), torch.randint(VOCABULARY, (BATCH, LENGTH))
        if network == "gpt":
            return list(gpt.parameters()), lambda: F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        return list(gpt.parameters()), lambda: model(ids, ids)
    if network == "cnn":
        images, labels, net = torch.randn(32, 3, 64, 64), torch.randint(10, (32,)), cnn()
        model = prepare(net)
        return list(net.parameters()), lambda: F.cross_entropy(model(images), labels)
    layers = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(12))
    parts, x = [prepare(layer) for layer in layers], torch.randn(2048, 1024)

    def loss() -> Tensor:
        h = x
        for part in parts:
            h = torch.tanh(part(h)) + h
        return h.square().mean()

    return list(layers.parameters()), loss


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def main() -> None:
    network, amp, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    prepare: Prepare = _as_it_is
    if amp != "none":
        # the same kernels for 16-bit products as under halfstep
        from halfstep.pytorch.products.products import install

        install([torch.bfloat16], "auto")
    if amp == "accelerate":
        from accelerate import Accelerator

        prepare = Accelerator(mixed_precision="bf16", cpu=True).prepare_model
    (torch.randn(8, 8) @ torch.randn(8, 8)).sum()
    before = held()
    parameters, loss_of = program(network, prepare)
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16) if amp == "hand" else contextlib.nullcontext():
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(held() - before)


if __name__ == "__main__":
    main()
