"""What halfstep costs a step beside mixed precision written by hand, in one process.

Expected: at most 1.01 of the step that the same script makes by itself, in fp32, bf16 and fp16, with few large layers
and with 300 small tensors.

Seen on 2 cores (results/beside_amp-amd-epyc.json), large and small: fp32 1.010 and 0.997, fp16 1.007 and 1.026, bf16
1.020 and 1.020, with intervals of 0.02 to 0.05 on either side. bf16 steps miss the aim: 0.4 ms of 19.

Two processes that do the same differ by some per cent, by their luck with memory, which is more than what halfstep
costs (overhead.py shows both). So here one process, one network and one optimizer take turns with halfstep in force
and without, in one order and the other. The script's own AMP yields where halfstep is in force; elsewhere it has the
same products (``--products auto``). Each turn takes some steps uncounted and then counts a few; its figure is the
fastest. Ratios and differences are taken pair by pair: the median with its 95 % interval (order statistics). Two turns
without halfstep give the floor: what is seen where there is nothing to see. What ``halfstep run`` may change beside the
step is overhead.py's to see.

    python benchmarks/beside_amp.py [--pairs 121] [--steps 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from recording import compared, show_pairs
from torch import nn

from halfstep.precisions.recipes import parse
from halfstep.pytorch.products.products import install
from halfstep.pytorch.takeover import Takeover
from halfstep.record import NullWriter
from halfstep.takeover.base import Options

#: widths and batch size
NETWORKS = {"few large layers": ([1024] * 4, 256), "300 small tensors": ([64] * 151, 64)}
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

#: steps in which caches are filled
UNCOUNTED = 3

#: a loss scale that both can keep
SCALE = 1024

Turns = dict[str, list[float]]


class Training:
    """A script with AMP of its own in ``precision``, clipping and AdamW, on one core."""

    def __init__(self, widths: list[int], batch: int, precision: str) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._precision, self._dtype = precision, DTYPES[precision]
        pairs = itertools.pairwise(widths)
        self._net = nn.Sequential(*[layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())])
        self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=1e-4, foreach=True)
        self._x, self._y = torch.randn(batch, widths[0]), torch.randn(batch, widths[-1])

    def _region(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._dtype is None else torch.autocast("cpu", dtype=self._dtype)

    def step(self) -> float:
        """Seconds of one step."""
        begin = time.perf_counter()
        with self._region():
            loss = (self._net(self._x) - self._y).float().square().mean()
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def _with_halfstep(self) -> Iterator[None]:
        recipe = f"fp16:init_scale={SCALE}" if self._precision == "fp16" else self._precision
        takeover = Takeover(Options(parse(recipe), writer=NullWriter()))
        takeover.by_hand.active = False  # as where it had seen the optimizer being made
        try:
            yield
        finally:
            takeover.close()
            takeover.remove()

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
        products = install([self._dtype], "auto") if self._dtype is not None else None
        try:
            yield
        finally:
            if products is not None:
                products.remove()

    def turn(self, halfstep: bool, steps: int) -> float:
        """Seconds of the fastest of ``steps`` steps."""
        with self._with_halfstep() if halfstep else self._by_itself():
            # Made here, as after the import that brings halfstep in: one that is there already would not yield.
            self._scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=self._precision == "fp16")
            for _ in range(UNCOUNTED):
                self.step()
            return min(self.step() for _ in range(steps))


def measure(training: Training, pairs: int, steps: int) -> Turns:
    """Seconds of a step, turn by turn: with ``halfstep``, ``without`` and, for the floor, ``again`` without."""
    turns: Turns = {"halfstep": [], "without": [], "again": []}
    order = list(turns)
    for _ in range(pairs):
        for name in order:
            turns[name].append(training.turn(name == "halfstep", steps))
        order.reverse()
    return turns


def compared_turns(name: str, turns: Turns) -> dict[str, Any]:
    """What ``turns`` of :func:`measure` come to, printed under ``name``."""
    found = {
        "step_seconds": {turn: median(values) for turn, values in turns.items()},
        "halfstep / without": compared(turns["halfstep"], turns["without"]),
        "again / without (floor)": compared(turns["again"], turns["without"]),
    }
    print(f"{name}: {1e3 * found['step_seconds']['without']:.2f} ms per step without")
    show_pairs(found, ("halfstep / without", "again / without (floor)"))
    return found


def write(path: str | None, pairs: int, results: dict[str, Any]) -> None:
    """Write what was compared to ``path``, with the machine and PyTorch's version; nothing where it is None."""
    if path is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        written = {"machine": machine, "torch": torch.__version__, "pairs": pairs, "results": results}
        Path(path).write_text(json.dumps(written, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=121)
    parser.add_argument("--steps", type=int, default=4, help="counted steps a turn")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for network, (widths, batch) in NETWORKS.items():
        for precision in DTYPES:
            turns = measure(Training(widths, batch, precision), options.pairs, options.steps)
            results[f"{network}, {precision}"] = compared_turns(f"{network}, {precision}", turns)
    write(options.json, options.pairs, results)


if __name__ == "__main__":
    main()
