"""What a record costs: a step of some 20 ms with recording on against off, in one process.

Expected: at most 1 % of a 20 ms step, 200 us. Seen in 240 pairs (results/recording-amd-epyc.json): 154 us (96 to 218).

Two processes differ by their luck with memory, by more than a record costs (overhead.py shows both). So here one
process, one network and one optimizer take turns with the takeover of ``halfstep run --precision fp32``, on and off
in turn, and off and on in every other pair. Each turn puts it into force anew, takes the steps that are looked at
closely uncounted, and then counts a few; its figure is the fastest (``--center median``: their median). Ratios and
differences are taken pair by pair: the median with its 95 % interval (order statistics). Two turns without a record
give the floor: the ratio of two equal runs.

    python benchmarks/recording.py [--pairs 61] [--steps 8] [--clock wall|cpu] [--device cuda] [--center fastest|median]
                                   [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from halfstep.meters import RunMeters, summary
from halfstep.precisions.recipes import parse
from halfstep.pytorch.recording.step_sampler import PROFILED_STEP
from halfstep.pytorch.takeover import Takeover
from halfstep.record import NullWriter, Writer
from halfstep.takeover.base import Options

#: a shared machine's neighbours take wall time, and hardly any of this thread's CPU time; all work is in this thread
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
CENTERS: dict[str, Callable[[list[float]], float]] = {"fastest": min, "median": median}

Turns = dict[str, list[float]]


class Training:
    """A network whose step takes some 20 ms on one core: 4 layers of 640 x 640, batches of 128."""

    def __init__(self, folder: Path, clock: Callable[[], float], device: str) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        layers = [layer for _ in range(4) for layer in (nn.Linear(640, 640), nn.ReLU())]
        self._net = nn.Sequential(*layers).to(device)
        self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=1e-4, foreach=True)
        self._x = torch.randn(128, 640, device=device)
        self._clock = clock
        self._record = folder / "record.jsonl"
        self._meters = RunMeters()
        self.step()

    def step(self) -> float:
        """Seconds of one step."""
        begin = self._clock()
        loss = (self._net(self._x) - self._x).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._x.is_cuda:
            torch.cuda.synchronize()
        return self._clock() - begin

    def turn(self, recorded: bool, steps: int) -> list[float]:
        """Seconds of ``steps`` steps after those that are looked at."""
        writer = Writer(self._record) if recorded else NullWriter()
        tick = self._meters.tick if recorded else lambda: None
        takeover = Takeover(Options(parse("fp32"), writer=writer, tick=tick))
        takeover.manual_updates.active = False  # as where it had seen the optimizer being made
        for _ in range(PROFILED_STEP + 2):
            self.step()
        seconds = [self.step() for _ in range(steps)]
        takeover.close()
        takeover.remove()
        if recorded:
            lines = [json.loads(line) for line in self._record.read_text().splitlines()]
            assert sum(line["event"] == "step" for line in lines) == PROFILED_STEP + 2 + steps
        return seconds


def measure(training: Training, pairs: int, steps: int, center: str) -> Turns:
    """Seconds of a step, turn by turn: ``on``, ``off`` and, for the floor, ``again`` off."""
    turns: Turns = {"on": [], "off": [], "again": []}
    order = list(turns)
    for _ in range(pairs):
        for name in order:
            turns[name].append(CENTERS[center](training.turn(name == "on", steps)))
        order.reverse()
    return turns


def compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Ratio and difference in microseconds, pair by pair: medians with their 95 % intervals."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "ratio": summary([a / b for a, b in pairs])._asdict(),
        "microseconds": summary([1e6 * (a - b) for a, b in pairs])._asdict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=61)
    parser.add_argument("--steps", type=int, default=8, help="counted steps a turn")
    parser.add_argument("--center", choices=CENTERS, default="fastest")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        turns = measure(
            Training(Path(folder), CLOCKS[options.clock], options.device),
            options.pairs,
            options.steps,
            options.center,
        )
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "pairs": options.pairs,
        "clock": options.clock,
        "step_seconds": {name: median(values) for name, values in turns.items()},
        "recorded / not": compared(turns["on"], turns["off"]),
        "not recorded / not (floor)": compared(turns["again"], turns["off"]),
    }
    show(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    for name, seconds in result["step_seconds"].items():
        print(f"{name:28} {1e3 * seconds:8.2f} ms a step")
    show_pairs(result, ("recorded / not", "not recorded / not (floor)"))


def show_pairs(result: dict[str, Any], names: Iterable[str]) -> None:
    """Print what was :func:`compared`."""
    for name in names:
        ratio, extra = result[name]["ratio"], result[name]["microseconds"]
        print(f"{name:28} {span(ratio, '.4f')}   {span(extra, '+.0f')} us a step")


def span(found: dict[str, float | None], form: str) -> str:
    """A median and its interval, where there is one."""
    if found["low"] is None:
        return f"{found['median']:{form}} (too few for an interval)"
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


if __name__ == "__main__":
    main()
