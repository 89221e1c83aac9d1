"""How often halfstep's verdict on a precision is right, where the truth is known.

Simulated: comparisons of four precisions with the trials of tests/comparison/simulated.py, judged by what
`halfstep compare` judges with. One precision is shifted by a known multiple of the noise, three are equal to fp32;
counted are false alarms, shifts that were seen, intervals that held the truth, and equivalence claimed wrongly, each
with its exact 95 % interval. The claim is that false alarms (any of the three called worse or better, by its final
loss or over the run) stay at 5 % or less: it is shown where the whole interval lies there, for each kind of simulation.
Real: `halfstep compare` on benchmarks/programs/known_truth.py, whose figures are equal, or worse by a known amount,
by construction.

    python benchmarks/verdicts.py --json benchmarks/results/verdicts.json         # 2 quiet cores: about 7 minutes
    python benchmarks/verdicts.py --resume --json FILE                            # go on where it was ended
    python benchmarks/verdicts.py --simulations 50 --no-real                      # a look, 10 s
    python benchmarks/verdicts.py --only-budget --json benchmarks/results/verdicts-budget.json    # about 4 minutes

With --budget, and only, 10,000 comparisons that are looked at again and again (benchmarks/adaptive.py).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adaptive
import numpy as np
from comparing import ROOT, add_folder, check_folder, compare, finish, write
from scipy.stats import binomtest

from halfstep import codec
from halfstep.comparison.statistics.paired import ALPHA, noncentrality
from halfstep.comparison.statistics.quality import qualities
from halfstep.comparison.statistics.tolerance import Tolerance
from halfstep.trials import Outcome

sys.path.insert(0, str(ROOT))

from tests.comparison.simulated import comparison

PROGRAM = "benchmarks/programs/known_truth.py"

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
    return {p: codec.write(found) for p, found in qualities("fp32", groups, tolerance).items()}


def simulated(seeds: int, shift: float, count: int, tolerance: Tolerance) -> dict[str, Any]:
    """``count`` comparisons; ``shift`` is the true difference of precision ``d`` from fp32."""
    random = np.random.default_rng([seeds, round(1e6 * shift)])
    shifts = {"a": 0.0, "b": 0.0, "c": 0.0, "d": shift}
    alarms = by_final = seen = covered = equivalent = wrongly = 0
    for _ in range(count):
        found = judged(comparison(random, seeds, shifts, seed_noise=SEED_NOISE, own_noise=OWN), tolerance)
        losses = {p: found[p]["loss"] for p in shifts}
        by_final += any(losses[p]["kind"] in ("worse", "better") for p in ("a", "b", "c"))
        alarms += any(found[p]["quality"]["kind"] in ("worse", "better") for p in ("a", "b", "c"))
        seen += losses["d"]["difference"]["significant"]
        covered += losses["d"]["difference"]["low"] <= shift <= losses["d"]["difference"]["high"]
        equivalent += losses["a"]["kind"] == "equivalent"
        wrongly += losses["d"]["kind"] == "equivalent"
    counts = {"false_alarm_of_three": alarms, "false_alarm_by_final_loss": by_final}
    counts |= {"shift_seen": seen, "interval_covers": covered}
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


@dataclass(frozen=True)
class Real:
    """A case whose truth is known.

    Attributes:
        name: in words.
        arguments: of the program.
        precision, figure: what is judged.
        right: verdicts that are right.
        truth: the true difference from fp32; None: only its sign is known.
    """

    name: str
    arguments: tuple[str, ...]
    precision: str
    figure: str
    right: tuple[str, ...]
    truth: float | None = None


EQUAL = ("equivalent", "no_difference_seen")
REAL = (
    *(Real("equal", ("equal",), p, "score", EQUAL, 0.0) for p in ("bf16", "bf16-true")),
    *(Real("worse by 0.05", ("shifted", "0.05"), p, "score", ("worse",), -0.05) for p in ("bf16", "bf16-true")),
    *(Real("worse by 0.2", ("shifted", "0.2"), p, "score", ("worse",), -0.2) for p in ("bf16", "bf16-true")),
    *(Real("better by 0.05", ("shifted", "-0.05"), p, "score", ("better",), 0.05) for p in ("bf16", "bf16-true")),
    Real("weights in bf16 lose every update", ("lost",), "bf16-true", "loss", ("worse",)),
    Real("products in bf16, weights in fp32, lose none", ("lost",), "bf16", "loss", EQUAL, 0.0),
)  # fmt: skip


def real(seeds: int, out: Path) -> Iterator[dict[str, Any]]:
    """Each case by `halfstep compare` in processes of their own."""
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    options = ["--precisions", "fp32,bf16,bf16-true", "--seeds", str(seeds)]
    for case in REAL:
        if case.arguments not in runs:
            folder = out / "-".join(part.replace("-", "minus") for part in case.arguments)
            runs[case.arguments] = compare(folder, options, [PROGRAM, *case.arguments])
        verdict = next(v for v in runs[case.arguments]["verdicts"] if v["precision"] == case.precision)
        row = verdict["loss"] if case.figure == "loss" else verdict["logged"][case.figure]
        low, high = row["difference"]["low"], row["difference"]["high"]
        yield {
            "case": case.name, "precision": case.precision, "figure": case.figure, "truth": case.truth,
            "kind": row["kind"], "words": row["words"], "right": row["kind"] in case.right,
            "value": row["difference"]["value"], "low": low, "high": high,
            "covers": None if case.truth is None or low is None else low <= case.truth <= high,
        }  # fmt: skip


def words(row: dict[str, float]) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


COLUMNS = {
    "false alarm, any of 3": "false_alarm_of_three",
    "difference seen": "shift_seen",
    "interval covers": "interval_covers",
    "called equivalent": "shifted_called_equivalent",
}


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=2000, metavar="N", help="comparisons of each kind")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the real cases")
    parser.add_argument("--no-real", action="store_true", help="simulations only")
    parser.add_argument("--budget", action="store_true", help="comparisons with --budget, too")
    parser.add_argument("--only-budget", action="store_true", help="nothing but comparisons with --budget")
    parser.add_argument("--json", type=Path, metavar="FILE")
    add_folder(parser, "verdicts")
    options = parser.parse_args()
    if not (options.no_real or options.only_budget):
        check_folder(parser, options)
    return options


def main() -> None:
    """Simulate, run the real cases, and say what held."""
    options = parsed()
    found: dict[str, Any] = {"benchmark": "verdicts", "python": platform.python_version()}
    if options.budget or options.only_budget:
        found["budget"] = adaptive.simulated(options.simulations)
        print(adaptive.said(found["budget"]), flush=True)
    if not options.only_budget:
        found |= fixed(options)
    if options.json:
        write(options.json, json.dumps(found, indent=1) + "\n")


def fixed(options: argparse.Namespace) -> dict[str, Any]:
    """Comparisons that are looked at once: simulated, and real ones."""
    found: dict[str, Any] = {"simulated": [], "real": []}
    print(f"{'seeds':>5}  {'true difference of d':22}  " + "  ".join(f"{name:22}" for name in COLUMNS))
    for row in simulations(options.simulations):
        found["simulated"].append(row)
        cells = "  ".join(f"{words(row[key]):22}" for key in COLUMNS.values())
        print(f"{row['seeds']:>5}  {row['true_shift']:22}  {cells}", flush=True)
    found["false_alarms"] = alarms = false_alarms(found["simulated"])
    held = "Shown" if alarms["held"] else "NOT shown"
    print(f"\nFalse alarms, all kinds together: {words(alarms)}. {held} to be at most {ALPHA:.0%} in each.\n")
    for row in () if options.no_real else real(options.seeds, options.out):
        found["real"].append(row)
        print(said(row), flush=True)
    if found["real"]:
        found["real_right"] = share(sum(row["right"] for row in found["real"]), len(found["real"]))
        print(f"\nReal verdicts that are right: {words(found['real_right'])} of {len(found['real'])}.")
    return found


def said(row: dict[str, Any]) -> str:
    """A real case in a line."""
    # What was not seen is no false claim; that it happens to 1 in 5 is what the detectable difference says.
    verdict = "right " if row["right"] else "missed" if row["kind"] in EQUAL[1:] else "WRONG "
    missed = "" if row["covers"] is not False else f" (the interval misses the true {row['truth']:+g})"
    return f"{verdict}  {row['case']}: {row['precision']}'s {row['figure']} {row['words']}{missed}"


def false_alarms(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The share over all kinds of simulation; ``held``: every kind's interval lies at or below :data:`ALPHA`."""
    each = [row["false_alarm_of_three"] for row in rows]
    count = sum(round(cell["share"] * cell["of"]) for cell in each)
    return {
        **share(count, sum(cell["of"] for cell in each)),
        "held": all(cell["high"] <= ALPHA for cell in each),
    }


if __name__ == "__main__":
    finish(main)
