"""Parts of the advice's sentences, as far as the intervals tell."""

from __future__ import annotations

from halfstep.comparison.evidence import (
    AS_GOOD,
    FEW_RUNS,
    Evidence,
    Prefer,
    Row,
    Verdict,
    enough_repeats,
    may_gain,
    may_gain_little,
    measured_faster,
    ratio_of,
    units_can_gain,
)
from halfstep.comparison.evidence import gain as gain_of
from halfstep.comparison.intervals import FEWEST_STEPS, MOST_RUNS
from halfstep.comparison.reasons import plain_number
from halfstep.comparison.rows import enough_steps

COST = {"speed": "faster", "memory": "smaller", "energy": "thriftier", "accuracy": "better"}
UNMEASURED = {
    "speed": "no step{} was timed here",
    "memory": "no peak of memory{} was measured here",
    "energy": "no energy{} was measured here",
}


def no_faster(verdict: Verdict) -> str:
    """What its speed is where it is no gain."""
    if verdict["speed_ratio"] is None:
        return f"but {UNMEASURED['speed'].format(' of ' + verdict['precision'])}, so that no gain is known"
    if not units_can_gain(verdict) and measured_faster(verdict):
        return f"and the units that it ran in do not make it faster, whatever was measured ({seen(verdict, 'speed')})"
    if may_gain(verdict, "speed"):
        told = f"({seen(verdict, 'speed')}); {more_runs(verdict, 'speed')}"
        return f"and whether it is faster the data cannot tell {told}"
    return "and no faster" + " by 5 % or more" * may_gain_little(verdict, "speed")


def why_open(verdict: Verdict, evidence: Evidence) -> str:
    """Why its quality is open, and what would tell."""
    kind = verdict["quality"]["kind"]
    if kind == "not_known":
        return "neither its loss nor a logged figure tells how good it is; log one with halfstep.log(accuracy=...)"
    if kind == "different":
        return (
            f"whether it is worse is not known, as a name tells no direction ({verdict['quality']['words']})"
        )
    return f"its quality is open; {evidence.more_seeds(verdict)}"


def seen(verdict: Verdict, prefer: Prefer) -> str:
    """``1.43×, from 0.93 to 2.19×``."""
    ratio = ratio_of(verdict, prefer)
    ends = "" if ratio["low"] is None else f", from {ratio['low']:.2f} to {ratio['high']:.2f}×"
    return f"{plain_number(ratio['value'])}×{ends}"


def more_runs(verdict: Verdict, prefer: Prefer) -> str:
    """What to do to have its gain told from noise."""
    if ratio_of(verdict, prefer).get("disturbed"):
        return "other work on the machine disturbed the trials: compare again when it is quiet"
    if prefer in ("speed", "accuracy") and verdict["steps"] < (steps := enough_steps(FEWEST_STEPS)):
        repeats = (
            ""
            if min(ratio_of(verdict, prefer).get("runs") or [1]) > 1
            else f", and run with --repeats {FEW_RUNS}"
        )
        return f"let it make more steps, {steps} at least{repeats}: fewer have no interval"
    enough = enough_repeats(verdict, prefer)
    if enough is None:
        return f"{MOST_RUNS} runs would not be enough: make them longer, or the machine quieter"
    return f"run with --repeats {enough}"


def none_was(evidence: Evidence) -> str:
    """What none of the others was, as far as the intervals tell."""
    what, others = COST[evidence.prefer], [v for _, v in evidence.real]
    if any(may_gain(v, evidence.prefer) for v in others):
        return f"shown to be {what}"
    return what + " by 5 % or more" * any(may_gain_little(v, evidence.prefer) for v in others)


def names(rows: list[Row]) -> str:
    """``bf16 and fp16``; of three ``fp32, bf16 and fp16``."""
    *others, last = [v["precision"] for _, v in rows] or [""]
    return f"{', '.join(others)} and {last}" if others else str(last)


def cost(verdict: Verdict, evidence: Evidence) -> str:
    """``1.90× faster``: what it gains by the objective."""
    return str(ratio_of(verdict, evidence.prefer)["words"])


def smaller_one(evidence: Evidence) -> str:
    """What to do if memory is short, although nothing is faster."""
    if evidence.prefer != "speed":
        return ""
    smaller = Evidence("memory", evidence.baseline, evidence.ran, evidence.failed).judged("good", "close")
    if not smaller or gain_of(smaller[0][1], "memory") < 1 / AS_GOOD:
        return ""
    verdict = smaller[0][1]
    return f" If memory is short, {verdict['precision']} needs {verdict['memory_ratio']['value']:.2f}× of it."
