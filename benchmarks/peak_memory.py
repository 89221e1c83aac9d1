"""Peak memory of training under ``halfstep run``, beside mixed precision written by hand and beside Accelerate's.

Expected: at most 1.02 of the memory with ``torch.autocast`` around the forward pass and the loss; where a model returns
large results (the logits of a GPT with a vocabulary of 50,000), whose fp32 copy a script that calls the model sees, no
more than with a model that Accelerate has prepared, which returns the same copy.

Each figure is the most memory that a process held resident (``ru_maxrss``), less what it held before its model was
made. Variants take turns, each in a process of its own; ratios are taken round by round: their median, and the lowest
and highest.

    python benchmarks/peak_memory.py [--rounds 5] [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from beside_amp import write

HERE = Path(__file__).resolve().parent
STEPS = 4

#: how a program gets its precision: halfstep's option, and the program's own
VARIANTS = {
    "fp32": ("fp32", "none"),
    "halfstep": ("bf16", "none"),
    "by hand": (None, "hand"),
    "Accelerate": (None, "accelerate"),
}
COMPARED = [
    ("halfstep", "by hand"),
    ("halfstep", "Accelerate"),
    ("Accelerate", "by hand"),
    ("by hand", "fp32"),
]


def command(network: str, variant: str) -> list[str]:
    """The command line of one run."""
    precision, amp = VARIANTS[variant]
    program = [str(HERE / "programs" / "peak_memory.py"), network, amp, str(STEPS)]
    if precision is None:
        return [sys.executable, *program]
    return [sys.executable, "-m", "halfstep", "run", "--precision", precision, *program]


def peak(network: str, variant: str) -> float:
    """Bytes of one run."""
    # Freed memory goes back to the system at once: what is measured is what is held, not what the allocator keeps.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        command(network, variant), capture_output=True, check=False, text=True, env=environment
    )
    if run.returncode:
        raise SystemExit(f"{network}, {variant}: {run.stderr}")
    return float(run.stdout.split()[-1])


def main() -> None:
    networks = ("gpt", "gpt-loss-inside", "cnn", "layers")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=networks)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for network in networks if options.only is None else [options.only]:
        peaks: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.rounds):
            for variant, found in peaks.items():
                found.append(peak(network, variant))
        results[network] = {"peak_bytes": {variant: median(found) for variant, found in peaks.items()}}
        print(f"{network}: " + ", ".join(f"{v} {median(f) / 2**20:.0f} MiB" for v, f in peaks.items()))
        for ours, theirs in COMPARED:
            ratios = [a / b for a, b in zip(peaks[ours], peaks[theirs], strict=True)]
            found = {"median": median(ratios), "low": min(ratios), "high": max(ratios)}
            results[network][f"{ours} / {theirs}"] = found
            print(f"  {ours} / {theirs}: {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f})")
    write(options.json, options.rounds, results)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
