"""How often halfstep's verdict on a precision is right, where the truth is known.

Simulated: comparisons of four precisions with the trials of tests/comparison/simulated.py, judged by what
`halfstep compare` judges with. One precision is shifted by a known multiple of the noise, three are equal to fp32;
counted are false alarms, shifts that were seen, intervals that held the truth, and equivalence claimed wrongly.
Real: `halfstep compare` on benchmarks/programs/known_truth.py, whose figures are equal, or worse by a known amount,
by construction.

    python benchmarks/verdicts.py                                 # about 4 minutes: half of them simulations
    python benchmarks/verdicts.py --simulations 50 --no-real      # a look, 10 s
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from halfstep.comparison.paired import ALPHA, noncentrality
from halfstep.comparison.quality import qualities
from halfstep.comparison.tolerance import Tolerance
from halfstep.trials import Outcome

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.comparison.simulated import comparison  # noqa: E402

PROGRAM = ROOT / "benchmarks" / "programs" / "known_truth.py"

#: the deviation of a paired difference of final losses: each is the mean of 5 steps with noise of their own
OWN = 0.01
DEVIATION = math.sqrt(2 * (OWN**2 + 0.01**2 / 5))
SEED_NOISE = 0.05


def share(count: int, of: int) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper & Pearson)."""
    interval = binomtest(count, of).proportion_ci(0.95)
    return {"share": count / of, "low": interval.low, "high": interval.high, "of": of}


def judged(trials: list[Outcome], tolerance: Tolerance) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Outcome]] = {}
    for trial in trials:
        groups.setdefault(trial.trial.precision, []).append(trial)
    return qualities("fp32", groups, tolerance)


def simulated(seeds: int, shift: float, count: int, tolerance: Tolerance) -> dict[str, Any]:
    """``count`` comparisons; ``shift`` is the true difference of precision ``d`` from fp32."""
    random = np.random.default_rng([seeds, round(1e6 * shift)])
    shifts = {"a": 0.0, "b": 0.0, "c": 0.0, "d": shift}
    alarms = seen = covered = equivalent = wrongly = 0
    for _ in range(count):
        found = judged(comparison(random, seeds, shifts, seed_noise=SEED_NOISE, own_noise=OWN), tolerance)
        losses = {p: found[p]["loss"] for p in shifts}
        alarms += any(losses[p]["kind"] in ("worse", "better") for p in ("a", "b", "c"))
        seen += losses["d"]["difference"]["significant"]
        covered += losses["d"]["difference"]["low"] <= shift <= losses["d"]["difference"]["high"]
        equivalent += losses["a"]["kind"] == "equivalent"
        wrongly += losses["d"]["kind"] == "equivalent"
    counts = {"false_alarm_of_three": alarms, "shift_seen": seen, "interval_covers": covered}
    counts |= {"equal_called_equivalent": equivalent, "shifted_called_equivalent": wrongly}
    return {"seeds": seeds, "shift": shift, **{name: share(n, count) for name, n in counts.items()}}


def simulations(count: int) -> Iterator[dict[str, Any]]:
    for seeds in (3, 5, 8):
        detectable = noncentrality(seeds, ALPHA / 4) * DEVIATION / math.sqrt(seeds)
        for name, shift in (
            ("none", 0.0),
            ("the detectable one", detectable),
            ("the seeds' deviation", SEED_NOISE),
        ):
            yield {"true_shift": name, **simulated(seeds, shift, count, Tolerance())}


REAL: list[tuple[str, list[str], str, str, set[str]]] = [
    # name, arguments, the precision looked at, the figure, verdicts that are right
    ("equal in every precision", ["equal"], "bf16", "score", {"equivalent", "no_difference_seen"}),
    ("worse by 0.05", ["shifted", "0.05"], "bf16", "score", {"worse"}),
    ("worse by 0.2", ["shifted", "0.2"], "bf16", "score", {"worse"}),
    ("better by 0.05", ["shifted", "-0.05"], "bf16", "score", {"better"}),
    ("bf16 weights lose every update", ["lost"], "bf16-true", "loss", {"worse"}),
    ("bf16 products, fp32 weights lose none", ["lost"], "bf16", "loss", {"equivalent", "no_difference_seen"}),
]


def real(seeds: int) -> Iterator[dict[str, Any]]:
    """Each case by `halfstep compare` in processes of their own."""
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, arguments, precision, figure, right in REAL:
        key = tuple(arguments)
        if key not in runs:
            runs[key] = compare(arguments, seeds)
        verdict = next(v for v in runs[key]["verdicts"] if v["precision"] == precision)
        row = verdict["loss"] if figure == "loss" else verdict["logged"][figure]
        difference = row["difference"]
        yield {
            "case": name, "precision": precision, "figure": figure, "kind": row["kind"], "words": row["words"],
            "right": row["kind"] in right, **{k: difference[k] for k in ("value", "low", "high")},
        }  # fmt: skip


def compare(arguments: list[str], seeds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "halfstep", "compare", "--precisions", "fp32,bf16,bf16-true"]
        command += ["--seeds", str(seeds), "--out", f"{folder}/out", "--json", f"{folder}/c.json"]
        subprocess.run([*command, str(PROGRAM), *arguments], check=True, capture_output=True)
        found: dict[str, Any] = json.loads(Path(folder, "c.json").read_text())
        return found


def words(row: dict[str, float]) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=1000, metavar="N", help="comparisons of each kind")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the real cases")
    parser.add_argument("--no-real", action="store_true", help="simulations only")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "benchmark": "verdicts",
        "python": platform.python_version(),
        "simulated": [],
        "real": [],
    }
    print(
        f"{'seeds':>5}  {'true difference of d':22}  {'false alarm, any of 3':22}  {'difference seen':22}  "
        f"{'interval covers':22}  {'called equivalent':22}"
    )
    for row in simulations(options.simulations):
        found["simulated"].append(row)
        cells = [
            row["false_alarm_of_three"],
            row["shift_seen"],
            row["interval_covers"],
            row["shifted_called_equivalent"],
        ]
        print(
            f"{row['seeds']:>5}  {row['true_shift']:22}  " + "  ".join(f"{words(cell):22}" for cell in cells)
        )
    for row in () if options.no_real else real(options.seeds):
        found["real"].append(row)
        verdict = "right" if row["right"] else "WRONG"
        print(f"{verdict}  {row['case']}: {row['precision']}'s {row['figure']} {row['words']}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
