"""What a step costs whose region is the outermost call of a model, beside mixed precision written by hand.

Expected: at most 1.02 of the step with ``torch.autocast`` around the forward pass and the loss, which is how most
scripts write it; that the results of a model come back as fp32 is part of it. The same for programs that call layers
with no model around them, whose region lasts to the backward pass.

Seen on 2 cores, 9 pairs (results/regions-amd-epyc.json): a GPT 1.017 (0.967 to 1.063) with its loss inside, 1.012
outside,
compiled 1.003; 50 small layers 1.030 (1.009 to 1.058), layers without a model 1.031 (1.015 to 1.075); a CNN cannot be
told (1.000 to 1.114).

One process, one network and one optimizer take turns with halfstep in force and without, as in beside_amp.py; without,
the script's own autocast has the same products. Two turns without halfstep give the floor.

    python benchmarks/regions.py [--pairs 61] [--steps 3] [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from beside_amp import UNCOUNTED, Turn, compared_turns, measure, write
from torch import Tensor, nn

from halfstep.precisions.recipes import parse
from halfstep.pytorch.products.products import install
from halfstep.pytorch.takeover import Takeover
from halfstep.record import NullWriter
from halfstep.takeover.base import Options

WIDTH, HEADS, TOKENS, BATCH, VOCABULARY = 192, 4, 128, 8, 512


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.before(x)).view(B, T, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.between(x))))


class GPT(nn.Module):
    """Four blocks; with targets it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.head(self.blocks(self.embed(ids)))
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gpt(compiled: bool, inside: bool) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A GPT whose loss is computed inside its forward or outside of it."""
    net = GPT()
    model = torch.compile(net) if compiled else net
    ids = torch.randint(VOCABULARY, (BATCH, TOKENS))
    if inside:
        return net, lambda: model(ids, ids)
    return net, lambda: F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def cnn() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Six convolutions with BatchNorm."""
    layers: list[nn.Module] = []
    for a, b, stride in [(3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]:
        layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    return net, lambda: F.cross_entropy(net(x), y)


def small_layers() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Fifty small layers in a model: what a nested call costs."""
    net = nn.Sequential(*(layer for _ in range(50) for layer in (nn.Linear(64, 64), nn.ReLU())))
    x = torch.randn(64, 64)
    return net, lambda: net(x).square().mean()


def layers_alone() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Twelve layers that a plain function calls: no model around them."""
    layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(12))
    x = torch.randn(256, 512)

    def loss() -> Tensor:
        h = x
        for layer in layers:
            h = torch.tanh(layer(h)) + h
        return h.square().mean()

    return layers, loss


CASES: dict[str, Callable[[], tuple[nn.Module, Callable[[], Tensor]]]] = {
    "GPT, loss inside": lambda: gpt(False, True),
    "GPT, loss outside": lambda: gpt(False, False),
    "GPT, compiled, loss outside": lambda: gpt(True, False),
    "CNN": cnn,
    "50 small layers": small_layers,
    "layers without a model": layers_alone,
}


class Training:
    """A script that trains one case, in the region of a recipe or in its own."""

    def __init__(self, case: str, precision: str) -> None:
        torch.manual_seed(0)
        net, self._loss = CASES[case]()
        self._precision = precision
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self._optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def turn(self, halfstep: bool, steps: int) -> Turn:
        """The fastest of ``steps`` steps."""
        with self._with_halfstep() if halfstep else self._by_itself() as region:
            for _ in range(UNCOUNTED["cpu"]):
                self._step(region)
            fastest = min(self._step(region) for _ in range(steps))
            return Turn(fastest, fastest, 0)

    def _step(self, region: Callable[[], contextlib.AbstractContextManager[Any]]) -> float:
        begin = time.perf_counter()
        with region():
            loss = self._loss()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def _with_halfstep(self) -> Iterator[Callable[[], Any]]:
        recipe = "fp16:loss_scale=1024" if self._precision == "fp16" else self._precision
        takeover = Takeover(Options(parse(recipe), writer=NullWriter()))
        takeover.manual_updates.active = False  # as where it had seen the optimizer being made
        try:
            yield contextlib.nullcontext
        finally:
            takeover.close()
            takeover.remove()

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[Callable[[], Any]]:
        if self._dtype is None:
            yield contextlib.nullcontext
            return
        products = install([self._dtype], "auto")
        try:
            yield lambda: torch.autocast("cpu", dtype=self._dtype)
        finally:
            products.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=61)
    parser.add_argument("--steps", type=int, default=3, help="counted steps per turn")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for case in CASES if options.only is None else [options.only]:
        turns = measure(Training(case, options.precision), options.pairs, options.steps)
        results[case] = compared_turns(f"{case}, {options.precision}", turns)
    write(options.json, options.pairs, results)


if __name__ == "__main__":
    main()
