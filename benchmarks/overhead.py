"""What halfstep costs: ``halfstep run`` against ``python``, and against mixed precision written by hand.

Expected: fp32 at most 1.01 of plain python; bf16 and fp16 at most 1.01 of hand-written AMP (with the same products,
see ``--products``), on a model of few large layers and one of 300 small tensors; recording at most 1 % of a 20 ms
step; start-up without torch at most 60 ms more than python's.

Seen on 2 cores (results/overhead-amd-epyc.json), with large layers and with small tensors: fp32 1.000 and 1.005, fp16
1.005 and 0.996, bf16 1.003 with small tensors, and 1.017 (0.997 to 1.018) with large layers, where rounds of 1.00 and
of 1.02 take turns, as processes differ; in one process it is 1.001 (beside_amp.py). Recorded or not: 1.001 and 1.009;
a record takes 154 us a step (recording.py).

Every variant is a process of its own, and all of them live at once: they take turns of a few steps, one at a time, so
that what disturbs the machine falls on all alike. A turn's figure is its fastest step, and a ratio is taken turn by
turn. Each round starts new processes, because a process keeps its luck with memory: a round's figure is the median of
its turns, and what is told is the rounds' median with its 95 % interval (order statistics).

Most of that luck is taken away: GNU's malloc gives memory back to the system, and asks for it again page by page, more
or less often as small things come to lie between large ones, which takes milliseconds of a step of large layers. All
variants alike are told to keep it, unless ``--give-back`` is given.

    python benchmarks/overhead.py [--rounds 9] [--turns 20] [--give-back] [--json FILE]
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
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from halfstep.meters import summary

SCRIPT = """
import contextlib, os, sys, time, torch
kind, amp, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
if kind == "large":
    sizes, batch = [1024] * 4, 256
else:
    sizes, batch = [64] * 151, 64
layers = [l for a, b in zip(sizes, sizes[1:]) for l in (torch.nn.Linear(a, b), torch.nn.ReLU())]
device = os.environ.get("BENCHMARK_DEVICE", "cpu")
model = torch.nn.Sequential(*layers).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
scaler = torch.amp.GradScaler(device, enabled=amp == "fp16")
dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp, torch.bfloat16)
if amp in ("bf16", "fp16") and device == "cpu" and "products" in sys.argv:
    from halfstep.pytorch.products.products import install
    install([dtype], "auto")
x, y = torch.randn(batch, sizes[0], device=device), torch.randn(batch, sizes[-1], device=device)

def step():
    begin = time.perf_counter()
    # No region at all without AMP: halfstep respects one that is disabled.
    with torch.autocast(device, dtype=dtype) if amp in ("bf16", "fp16") else contextlib.nullcontext():
        loss = (model(x) - y).float().square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, loss

for turn in sys.stdin:
    seconds, losses = zip(*(step() for _ in range(steps)))
    print(min(seconds), losses[-1].item(), flush=True)
"""

#: GNU's malloc: never give memory back to the system
KEEPING = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(1 << 32))

#: turns of each process that are not counted
WARMUP = 5

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


class Variant:
    """A process that trains when it is told to."""

    def __init__(self, script: Path, kind: str, name: str, steps: int, environment: dict[str, str]) -> None:
        self._child = subprocess.Popen(
            command(script, kind, name, steps), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=os.environ | environment,
        )  # fmt: skip

    def turn(self) -> tuple[float, float]:
        """(fastest step in seconds, last loss) of one turn."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print("go", file=self._child.stdin, flush=True)
        seconds, loss = self._child.stdout.readline().split()
        return float(seconds), float(loss)

    def close(self) -> None:
        """Let the process end by itself."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()


def startup_seconds(launch: list[str], script: Path) -> float:
    """Seconds from start to end of a program that does nothing."""
    begin = time.perf_counter()
    subprocess.run([*launch, str(script)], check=True)
    return time.perf_counter() - begin


Seconds = dict[str, list[list[float]]]


def measure_steps(
    script: Path, kind: str, rounds: int, turns: int, steps: int, environment: dict[str, str]
) -> Seconds:
    """variant -> round -> seconds of the fastest step, one a turn; the fp32 losses must be bit-identical."""
    rows: Seconds = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        with ExitStack() as stack:
            alive = {name: Variant(script, kind, name, steps, environment) for name in VARIANTS}
            for variant in alive.values():
                stack.callback(variant.close)
            for variant in alive.values():
                for _ in range(WARMUP):
                    variant.turn()
            taken = [{name: variant.turn() for name, variant in alive.items()} for _ in range(turns)]
        for turn in taken:
            losses = {name: loss for name, (_, loss) in turn.items()}
            assert losses["python"] == losses["halfstep fp32"] == losses["halfstep fp32, recorded"], losses
        for name in VARIANTS:
            rows[name].append([turn[name][0] for turn in taken])
    return rows


def ratio(rows: Seconds, ours: str, theirs: str) -> dict[str, object]:
    """The ratio of two variants, taken turn by turn: the median of the rounds' medians, its 95 % interval, and they."""
    by_round = [
        median(a / b for a, b in zip(us, them, strict=True))
        for us, them in zip(rows[ours], rows[theirs], strict=True)
    ]
    center = summary(by_round)
    return {"median": center.median, "low": center.low, "high": center.high, "rounds": by_round}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="six at least, for an interval")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--give-back", action="store_true", help="malloc gives memory back to the system")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    environment = {"BENCHMARK_DEVICE": options.device} | ({} if options.give_back else KEEPING)
    with tempfile.TemporaryDirectory() as folder:
        script, nothing = Path(folder) / "train.py", Path(folder) / "nothing.py"
        script.write_text(SCRIPT)
        nothing.write_text("")
        rows = {
            kind: measure_steps(script, kind, options.rounds, options.turns, options.steps, environment)
            for kind in ("large", "small")
        }
        ours = [sys.executable, "-m", "halfstep", "run", "--precision", "fp32"]
        starts = [
            (startup_seconds([sys.executable], nothing), startup_seconds(ours, nothing))
            for _ in range(10 * options.rounds)
        ]
    extra = summary([b - a for a, b in starts])
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "malloc": environment,
        "rounds": options.rounds,
        "turns": options.turns,
        "step_seconds": {k: {n: [median(r) for r in v] for n, v in of.items()} for k, of in rows.items()},
        "ratios": {kind: {f"{a} / {b}": ratio(of, a, b) for a, b in PAIRS} for kind, of in rows.items()},
        "startup_extra_seconds": {"median": extra.median, "low": extra.low, "high": extra.high},
    }
    show(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    for kind, rows in result["step_seconds"].items():
        print(f"\n{kind}: fastest step of a turn, ms: median (medians of the rounds)")
        for name, rounds in rows.items():
            each = ", ".join(f"{1e3 * seconds:.2f}" for seconds in rounds)
            print(f"  {name:26} {1e3 * median(rounds):8.2f}  ({each})")
        for pair, row in result["ratios"][kind].items():
            each = ", ".join(f"{value:.3f}" for value in row["rounds"])
            print(f"  {pair:50} {row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f})  rounds {each}")
    extra = result["startup_extra_seconds"]
    ms = [1e3 * extra[key] for key in ("median", "low", "high")]
    print("\nstart-up, ms more than python: {:.0f} ({:.0f} to {:.0f})".format(*ms))


if __name__ == "__main__":
    main()
