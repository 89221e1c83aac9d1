"""What halfstep costs: ``halfstep run`` against ``python``, and against mixed precision written by hand.

Expected: fp32 at most 1.01 of plain python; bf16 and fp16 at most 1.01 of hand-written AMP (with the same products,
see ``--products``), on a model of few large layers and one of 300 small tensors; recording at most 1 % of a 20 ms
step; start-up without torch at most 60 ms more than python's.

Each variant is a process of its own; rounds are interleaved (A B C A B C), a variant's figure is the median step of
each round, and ratios are taken round by round: their median, with the lowest and highest.

    python benchmarks/overhead.py [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SCRIPT = """
import contextlib, sys, time, torch
kind, amp, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
if kind == "large":
    sizes, batch = [1024] * 4, 256
else:
    sizes, batch = [64] * 151, 64
layers = [l for a, b in zip(sizes, sizes[1:]) for l in (torch.nn.Linear(a, b), torch.nn.ReLU())]
model = torch.nn.Sequential(*layers)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp, torch.bfloat16)
if amp in ("bf16", "fp16") and "products" in sys.argv:
    from halfstep.pytorch.products import install
    install([dtype], "auto")
x, y = torch.randn(batch, sizes[0]), torch.randn(batch, sizes[-1])
times = []
for step in range(steps):
    begin = time.perf_counter()
    # No region at all without AMP: halfstep respects one that is disabled.
    with torch.autocast("cpu", dtype=dtype) if amp in ("bf16", "fp16") else contextlib.nullcontext():
        loss = (model(x) - y).float().square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    times.append(time.perf_counter() - begin)
print("\\n", sorted(times[5:])[len(times[5:]) // 2], loss.item())
"""

#: name: (precision of halfstep or None for plain python, amp in the script, record)
VARIANTS = {
    "python": (None, "none", False),
    "halfstep fp32": ("fp32", "none", False),
    "halfstep fp32, recorded": ("fp32", "none", True),
    "hand-written bf16": (None, "bf16", False),
    "halfstep bf16": ("bf16", "none", False),
    "hand-written fp16": (None, "fp16", False),
    "halfstep fp16": ("fp16", "none", False),
}

PAIRS = [
    ("halfstep fp32", "python"),
    ("halfstep fp32, recorded", "halfstep fp32"),
    ("halfstep bf16", "hand-written bf16"),
    ("halfstep fp16", "hand-written fp16"),
]


def command(script: Path, kind: str, variant: str, steps: int) -> list[str]:
    """The command line of a variant."""
    precision, amp, record = VARIANTS[variant]
    program = [str(script), kind, amp, str(steps), "products"]
    if precision is None:
        return [sys.executable, *program]
    recording = ["--record", str(script.with_suffix(".jsonl"))] if record else []
    return [sys.executable, "-m", "halfstep", "run", "--precision", precision, *recording, *program]


def step_seconds(script: Path, kind: str, variant: str, steps: int) -> tuple[float, float]:
    """(median step in seconds, last loss) of one process."""
    done = subprocess.run(command(script, kind, variant, steps), capture_output=True, text=True, check=True)
    seconds, loss = done.stdout.split()
    return float(seconds), float(loss)


def startup_seconds(launch: list[str], script: Path) -> float:
    """Seconds from start to end of a program that does nothing."""
    begin = time.perf_counter()
    subprocess.run([*launch, str(script)], check=True)
    return time.perf_counter() - begin


def ratios(rows: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Ratios taken round by round: median, lowest and highest."""
    found = [a / b for a, b in zip(rows[ours], rows[theirs], strict=True)]
    return {"median": median(found), "low": min(found), "high": max(found)}


def measure_steps(script: Path, rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """kind -> variant -> seconds, one a round; the fp32 losses must be bit-identical."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("large", "small"):
        rows: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(rounds):
            losses = {}
            for name in VARIANTS:
                seconds, losses[name] = step_seconds(script, kind, name, steps)
                rows[name].append(seconds)
            assert losses["python"] == losses["halfstep fp32"] == losses["halfstep fp32, recorded"]
        found[kind] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script, nothing = Path(folder) / "train.py", Path(folder) / "nothing.py"
        script.write_text(SCRIPT)
        nothing.write_text("")
        steps = measure_steps(script, options.rounds, options.steps)
        ours = [sys.executable, "-m", "halfstep", "run", "--precision", "fp32"]
        starts = [
            (startup_seconds([sys.executable], nothing), startup_seconds(ours, nothing))
            for _ in range(4 * options.rounds)
        ]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "rounds": options.rounds,
        "step_seconds": steps,
        "ratios": {
            kind: {f"{a} / {b}": ratios(rows, a, b) for a, b in PAIRS} for kind, rows in steps.items()
        },
        "startup_extra_seconds": {
            "median": median(b - a for a, b in starts),
            "low": min(b - a for a, b in starts),
            "high": max(b - a for a, b in starts),
        },
    }
    for kind, rows in steps.items():
        print(f"\n{kind}: median step, ms")
        for name, seconds in rows.items():
            print(
                f"  {name:26} {1e3 * median(seconds):8.2f}  ({1e3 * min(seconds):.2f} to {1e3 * max(seconds):.2f})"
            )
        for pair, ratio in result["ratios"][kind].items():
            print(f"  {pair:50} {ratio['median']:.3f}  ({ratio['low']:.3f} to {ratio['high']:.3f})")
    extra = result["startup_extra_seconds"]
    median_ms, low, high = (1e3 * extra[key] for key in ("median", "low", "high"))
    print(f"\nstart-up, ms more than python: {median_ms:.0f} ({low:.0f} to {high:.0f})")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
