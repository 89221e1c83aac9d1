"""What a large comparison costs: 50 trials of 5,000 steps, whose records are made up and read as any other.

Three figures: seconds that `halfstep compare` takes to put the comparison together and write it after its last trial,
MB of the page, and seconds of `halfstep report`. Expected: below 0.3 s, 6 MB and 8 s. Seconds are of processor time,
which other work on the machine lengthens least.

    python benchmarks/load.py [--trials 50] [--steps 5000] [--logged 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from halfstep.comparison import archive
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.request import Request, save
from halfstep.comparison.running import assemble
from halfstep.machine.support import Device
from halfstep.options import DEFAULTS
from halfstep.record import SCHEMA, Writer
from halfstep.report.compared import File
from halfstep.report.words.comparison import worded
from halfstep.trials import Outcome, Trial, records_at

#: each runs with two repeats of several seeds
PRECISIONS = ("fp32", "bf16", "fp16", "bf16-true", "fp16-true")
REPEATS = 2

MIB = 2**20
ENVIRONMENT = Environment(
    halfstep="0", python="3", platform="none", cpu="made up", cpu_flags=(), cores=1, threads=1, memory_bytes=2**33,
    frameworks={"torch": "2"}, devices=(Device("cpu", "made up"),), started="2026-01-01T00:00:00+00:00",
)  # fmt: skip


def request_in(folder: Path, trials: int) -> Request:
    """What was asked for: so many trials, interleaved."""
    return Request(
        program="train.py", arguments=(), module=False, recipes=PRECISIONS, options=DEFAULTS, repeats=REPEATS,
        seeds=max(1, trials // len(PRECISIONS) // REPEATS), time_limit=None, launch="", folder=folder,
    )  # fmt: skip


def trial_in(request: Request, trial: Trial, steps: int, logged: int) -> Outcome:
    """A trial that has ended: its record, with a loss that falls and step times that vary, and how it ended."""
    place = PRECISIONS.index(trial.precision)
    random = np.random.default_rng([trial.seed, trial.repeat, place])
    losses = 3 * np.exp(-np.arange(steps) / steps) + random.normal(0, 0.05, steps) + 0.01 * trial.seed
    seconds = np.exp(random.normal(-3 - 0.1 * place, 0.1, steps))
    path = request.job.record(trial)
    writer = Writer(path)
    writer.write(
        "start", schema=SCHEMA, precision=trial.precision, seed=trial.seed, repeat=trial.repeat,
        started=f"2026-01-01T00:{trial.repeat:02}:{trial.seed:02}+00:00",
    )  # fmt: skip
    writer.write("takeover", framework="torch", device="cpu", asked=trial.precision, seconds=0.1)
    for step in range(steps):
        writer.write(
            "step", step=step, loss=float(losses[step]), seconds=float(seconds[step]) if step else None,
            skipped=False, sampled=step in (1, 2),
        )  # fmt: skip
        for n in range(logged):
            if step % 10 == 0:
                writer.write("logged", name=f"accuracy_{n}", value=float(random.random()), step=step)
    writer.write("sample", memory={"weights": 4 * MIB}, matmul_flops={"fp32": 10**9}, samples=8)
    writer.write(
        "end", status="ok", reason="", exit_code=0, steps=steps, skipped_steps=0, peak_memory_bytes=64 * MIB
    )
    record, ranks = records_at(path)
    outcome = Outcome(trial, "ok", "", 0, record, ranks, float(seconds.sum()))
    archive.keep(request, outcome)
    return outcome


def assembling(request: Request, outcomes: list[Outcome]) -> list[float]:
    """Seconds that each trial takes `halfstep compare` once it has ended, in order."""
    taken, file = [], File(request.folder)
    for n in range(1, len(outcomes) + 1):
        begin = time.process_time()
        file.write(worded(assemble(request, outcomes[:n], ENVIRONMENT)))
        taken.append(time.process_time() - begin)
    return taken


def measure(folder: Path, trials: int, steps: int, logged: int) -> dict[str, Any]:
    """The three figures of a comparison that is made up in ``folder``."""
    request = request_in(folder, trials)
    planned = [
        Trial(p, seed, repeat)
        for repeat in range(REPEATS)
        for seed in range(request.seeds)
        for p in PRECISIONS
    ]
    outcomes = [trial_in(request, trial, steps, logged) for trial in planned]
    save(request, ENVIRONMENT)
    taken = assembling(request, outcomes)
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "halfstep", "report", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "trials": len(outcomes),
        "steps": steps,
        "assembling_seconds": {"last": taken[-1], "most": max(taken)},
        "report_seconds": ended.ru_utime + ended.ru_stime - begin.ru_utime - begin.ru_stime,
        "page_bytes": (folder / "report.html").stat().st_size,
        "json_bytes": (folder / "comparison.json").stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--logged", type=int, default=1, help="figures that each trial logs every ten steps")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.trials, options.steps, options.logged)
    last, most = (found["assembling_seconds"][name] for name in ("last", "most"))
    print(f"assembling after the last of {found['trials']} trials {last:8.2f} s (at most {most:.2f} s)")
    print(
        f"the page {found['page_bytes'] / 1e6:35.2f} MB (comparison.json: {found['json_bytes'] / 1e6:.2f} MB)"
    )
    print(f"halfstep report {found['report_seconds']:28.2f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
