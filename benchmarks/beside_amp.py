"""What halfstep costs a step beside mixed precision written by hand, in one process.

Expected: at most 1.01 of the step that the same script makes by itself, in fp32, bf16 and fp16, with few large layers
and with 300 small tensors.

Seen on 2 cores of an Intel Xeon (results/beside_amp-intel-xeon.json), large and small: fp32 1.009 and 1.017, fp16 1.011
and 1.016, bf16 1.020 and 1.018, with intervals of some 0.01 on either side. Of 300 small tensors, and of bf16, the aim
is missed: 0.6 to 0.8 ms of 33 to 47. A step leaves little of Python's own in the processor's caches, so each line of
Python that halfstep adds costs there some ten times what it costs in a loop.

Two processes that do the same differ by some per cent, by their luck with memory, which is more than what halfstep
costs (overhead.py shows both). So here one process, one network and one optimizer take turns with halfstep in force
and without, in one order and the other. The script's own AMP yields where halfstep is in force; elsewhere it has the
same products (``--products auto``). Each turn takes some steps uncounted and then counts a few; its figure is the
fastest. Ratios and differences are taken pair by pair: the median with its 95 % interval (order statistics). Two turns
without halfstep give the floor: the ratio of two equal runs. What ``halfstep run`` may change beside the
step is overhead.py's to see.

The C library's heap is told to keep what is freed: where it gives memory back, a step of large layers has between 0 and
5,000 page faults (up to 15 ms of 60) by luck, with halfstep and without.

    python benchmarks/beside_amp.py [--pairs 121] [--steps 4] [--json FILE]
    python benchmarks/beside_amp.py --device cuda --seconds 150 --json FILE

On a GPU each turn is timed as a whole, up to a synchronisation at its end, and longer: only then is a fused optimizer's
verdict read late. Beside the step's time there are the time in which the host issues it, peak memory, and of one step
what ran on the device and the synchronisations that PyTorch saw. Not measured yet.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from programs.hand_amp import task
from recording import compared, show_pairs
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from halfstep.precisions.recipes import parse
from halfstep.pytorch.loss_scaling.scale import CALM
from halfstep.pytorch.products.products import install
from halfstep.pytorch.takeover import Takeover
from halfstep.record import NullWriter
from halfstep.takeover.base import Options

#: widths and batch size, or a model of programs/hand_amp.py
Network = tuple[list[int], int] | str
#: by device, widths and batch size; GPT-2 is hand_amp.py's
NETWORKS: dict[str, dict[str, Network]] = {
    "cpu": {"few large layers": ([1024] * 4, 256), "300 small tensors": ([64] * 151, 64)},
    "cuda": {
        "300 small tensors": ([64] * 151, 64),
        "GPT-2 124M": "gpt2",
        "few large layers": ([8192] * 5, 8192),
        "300 small tensors, compiled": ([64] * 151, 64),
    },
}
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

#: steps in which caches are filled; on a GPU more than it takes until verdicts are read late
UNCOUNTED = {"cpu": 3, "cuda": CALM + 6}

#: a loss scale that both can keep
SCALE = 1024

#: parameters of glibc's mallopt: from which size on free memory is given back, how many blocks are mapped alone
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class Turn(NamedTuple):
    """What a turn of steps took.

    Attributes:
        step: seconds per step; on a CPU the fastest.
        issue: seconds per step until the host had issued it; on a CPU the same.
        peak: bytes of a GPU's memory at the peak; 0 on a CPU.
    """

    step: float
    issue: float
    peak: int


Turns = dict[str, list[Turn]]


class Training:
    """A script with AMP of its own in ``precision``, clipping and AdamW; on a CPU on one core."""

    def __init__(self, network: Network, precision: str, device: str, compiled: bool = False) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._precision, self._dtype, self._device = precision, DTYPES[precision], device
        if isinstance(network, str):
            self._net, *self._data = task(network, 16, torch.device(device))
        else:
            widths, batch = network
            pairs = itertools.pairwise(widths)
            layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
            self._net = Squares(nn.Sequential(*layers)).to(device)
            self._data = [torch.randn(batch, width, device=device) for width in (widths[0], widths[-1])]
        if compiled:
            self._net.compile()
        kind = {"foreach": True} if device == "cpu" else {"fused": True}
        self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=1e-4, **kind)

    def _region(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._dtype is None else torch.autocast(self._device, self._dtype)

    def step(self) -> float:
        """Seconds of one step, on a GPU until it is issued."""
        begin = time.perf_counter()
        with self._region():
            loss = self._net(*self._data)
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
        takeover.manual_updates.active = False  # as where it had seen the optimizer being made
        try:
            yield
        finally:
            takeover.close()
            takeover.remove()

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
        on_cpu = self._dtype is not None and self._device == "cpu"
        products = install([self._dtype], "auto") if on_cpu else None
        try:
            yield
        finally:
            if products is not None:
                products.remove()

    @contextlib.contextmanager
    def _warm(self, halfstep: bool) -> Iterator[None]:
        with self._with_halfstep() if halfstep else self._by_itself():
            # Made here, as after the import that brings halfstep in: one that is there already would not yield.
            scaled = self._precision == "fp16"
            self._scaler = torch.amp.GradScaler(self._device, init_scale=SCALE, enabled=scaled)
            for _ in range(UNCOUNTED[self._device]):
                self.step()
            yield

    def turn(self, halfstep: bool, steps: int) -> Turn:
        """What ``steps`` steps take."""
        with self._warm(halfstep):
            if self._device == "cpu":
                fastest = min(self.step() for _ in range(steps))
                return Turn(fastest, fastest, 0)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            issued = sum(self.step() for _ in range(steps))
            torch.cuda.synchronize()
            return Turn(
                (time.perf_counter() - begin) / steps, issued / steps, torch.cuda.max_memory_allocated()
            )

    def of_one_step(self, halfstep: bool) -> dict[str, float]:
        """What runs on the GPU in one step, how long, and how often PyTorch saw the host wait for it."""
        with self._warm(halfstep):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    self.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
                self.step()
                torch.cuda.synchronize()
        ran = [e for e in profiled.events() if e.device_type == DeviceType.CUDA]
        return {
            "device_events": len(ran),
            "device_seconds": 1e-6 * sum(event.device_time for event in ran),
            "synchronisations": sum("synchroniz" in str(warning.message) for warning in seen),
        }


class Squares(nn.Module):
    """A model with its loss, the mean square: (inputs, targets) to a scalar."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.model(x) - y).float().square().mean()


def measure(training: Training, pairs: int, steps: int, until: float = math.inf) -> Turns:
    """Turns with ``halfstep``, ``without`` and, for the floor, ``again`` without; at least 3 of each."""
    turns: Turns = {"halfstep": [], "without": [], "again": []}
    order = list(turns)
    while len(turns["again"]) < pairs and (len(turns["again"]) < 3 or time.monotonic() < until):
        for name in order:
            turns[name].append(training.turn(name == "halfstep", steps))
        order.reverse()
    return turns


def compared_turns(name: str, turns: Turns) -> dict[str, Any]:
    """What ``turns`` of :func:`measure` come to, printed under ``name``."""
    steps = {turn: [each.step for each in values] for turn, values in turns.items()}
    found: dict[str, Any] = {
        "step_seconds": {turn: median(values) for turn, values in steps.items()},
        "halfstep / without": compared(steps["halfstep"], steps["without"]),
        "again / without (floor)": compared(steps["again"], steps["without"]),
    }
    print(f"{name}: {1e3 * found['step_seconds']['without']:.2f} ms per step without")
    shown = ["halfstep / without", "again / without (floor)"]
    if any(each.peak for each in turns["without"]):
        issued = {turn: [each.issue for each in values] for turn, values in turns.items()}
        found["issued, halfstep / without"] = compared(issued["halfstep"], issued["without"])
        found["peak_memory_bytes"] = {
            turn: max(each.peak for each in values) for turn, values in turns.items()
        }
        shown.append("issued, halfstep / without")
    show_pairs(found, shown)
    return found


def write(path: str | None, pairs: int, results: dict[str, Any]) -> None:
    """Write what was compared to ``path``, with the machine and PyTorch's version; nothing where it is None."""
    if path is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        written = {"machine": machine, "torch": torch.__version__, "pairs": pairs, "results": results}
        Path(path).write_text(json.dumps(written, indent=1) + "\n")


def keep_freed_memory() -> None:
    """Let glibc's heap keep what is freed (mallopt(3)); elsewhere nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=121)
    parser.add_argument("--steps", type=int, help="counted steps a turn; default: 4, on a GPU 20")
    parser.add_argument("--device", choices=NETWORKS, default="cpu")
    parser.add_argument("--seconds", type=float, default=math.inf, help="when no more turns are begun")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    keep_freed_memory()
    steps = options.steps or {"cpu": 4, "cuda": 20}[options.device]
    cases = [(n, p) for n in NETWORKS[options.device] for p in DTYPES]
    until = time.monotonic() + options.seconds
    results: dict[str, Any] = {}
    for left, (network, precision) in zip(range(len(cases), 0, -1), cases, strict=True):
        name, compiled = f"{network}, {precision}", network.endswith("compiled")
        own_end = time.monotonic() + (until - time.monotonic()) / left
        training = Training(NETWORKS[options.device][network], precision, options.device, compiled)
        results[name] = compared_turns(name, measure(training, options.pairs, steps, own_end))
        if options.device == "cuda":
            results[name] |= {how: training.of_one_step(how == "halfstep") for how in ("halfstep", "without")}
        write(options.json, options.pairs, results)


if __name__ == "__main__":
    main()
