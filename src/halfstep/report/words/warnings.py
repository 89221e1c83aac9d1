"""Warnings in words: disturbed or continued trials, a loss that stands still, drift, shared machines."""

from __future__ import annotations

import os
from collections.abc import Sequence

from halfstep.comparison.disturbance import OTHERS
from halfstep.comparison.model.comparison import Drift, Trend
from halfstep.comparison.model.environment import Cluster, Environment
from halfstep.comparison.model.trials import Disturbed, TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow, StandsStill, WentOn
from halfstep.comparison.stillness import lost_constants, sixteen_bits
from halfstep.words.plural import count

_CURE = (
    "compare with --fresh, or give each trial its own folder, named after HALFSTEP_TRIAL in its environment"
)
_CURE_OUTSIDE = (
    "it names that file by an absolute path, which leads out of the copy that --fresh makes; name it relative to the "
    "working folder, or give each trial its own folder, named after HALFSTEP_TRIAL in its environment"
)


def of_row(row: PrecisionRow, base: PrecisionRow, trials: Sequence[TrialRow]) -> list[str]:
    """The warnings of a precision, from its row, the baseline's, and its trials."""
    still = [] if row.stands_still is None else [stands_still(row.stands_still, row)]
    work = [] if row.work_ratio is None else [work_ratio(row.work_ratio, row.baseline or "the baseline")]
    return [*_disturbed(trials), *still, *work, *_length(row, base)]


def disturbed(found: Disturbed) -> str:
    """``other processes took 1.9 of 2 cores, and it waited 31% of its time for a processor``."""
    cores, others, waited = found.cores or 1, found.others_cores or 0.0, found.waited_share or 0.0
    took = f"other processes took {others:.1f} of {cores} cores, and " if others >= OTHERS * cores else ""
    return f"{took}it waited {waited:.0%} of its time for a processor"


def _length(row: PrecisionRow, base: PrecisionRow) -> list[str]:
    """A warning if trials made another number of steps than the baseline's, as where a program ends by its loss."""
    if row.steps == base.steps or row.went_on or not (row.ended_well and base.ended_well):
        return []
    least = "at least " * ((row.trials or 1) > 1)
    made = f"made {least}{count(row.steps or 0, 'step')}, and {base.precision} {least}{base.steps or 0:,}"
    return [f"{made}: the program itself decides when to end, so final losses are of different steps"]


def _disturbed(trials: Sequence[TrialRow]) -> list[str]:
    """A warning about the disturbed trials, with the figures of the worst; none if there are none."""
    found = [t.disturbed for t in trials if t.disturbed and t.disturbed.waited_share is not None]
    if not found:
        return []
    worst = max(found, key=lambda each: each.waited_share or 0.0)
    which = "" if len(trials) == 1 else f" in {len(found)} of {len(trials)} trials"
    return [f"disturbed{which}: {disturbed(worst)}; such step times do not count for the verdict on speed"]


def went_on(found: WentOn) -> str:
    """``went on from last.pt, which an earlier trial wrote, and made 30 of 40 steps``."""
    files = ", ".join(found.files[:3]) + ", …" * (len(found.files) > 3)
    fewer = f", and made {found.steps} of {found.of} steps" if found.steps < found.of else ""
    return f"went on from {files}, which an earlier trial wrote{fewer}"


def cure(found: WentOn) -> str:
    """What to do about trials that continued from another's files; a path is of a file outside of the trial's copy."""
    return _CURE_OUTSIDE if any(os.path.isabs(file) for file in found.files) else _CURE


def stands_still(still: StandsStill, row: PrecisionRow) -> str:
    """That the loss did not move; and which of Adam's constants the 16-bit format of state or weights cannot hold."""
    said = (
        f"the loss did not move in {row.steps or 0} steps (it fell by {still.fall:.2g}), while in {row.baseline} it "
        f"fell by {still.baseline_fall:.2g}"
    )
    sixteen = sixteen_bits(row.held)
    if not sixteen:
        return said
    lost = [f"{name} = {value:g} is {rounded:g}" for name, value, rounded in lost_constants(sixteen)]
    constants = f"; of Adam's constants {' and '.join(lost)} in {sixteen}" if lost else ""
    return f"{said}: its weights are stored in {sixteen}, where updates below half their last digit are lost{constants}"


def work_ratio(ratio: float, baseline: str) -> str:
    """``a step computes 4.2× the products of fp32's: ...``."""
    often = "more often" if ratio > 1 else "less often"
    return (
        f"a step computes {ratio:.2g}× the products of {baseline}'s: the program evaluates its model {often}, as an "
        "adaptive solver or a line search does where results are rounded"
    )


def drift(found: Drift, several: bool) -> str:
    """How much slower or faster the machine became; empty if it did not.

    Args:
        found: the drift from trial to trial, and within the trials.
        several: whether more than one precision was measured.
    """
    words = []
    if across := _seen(found.across_trials):
        words.append(
            f"steps became {_by(across)} from the first trials to the last (p = {across.p:.2g}); trials are "
            "interleaved, so it affects all precisions alike"
        )
    if within := _seen(found.within_trials):
        of_all = " of all precisions" * several
        words.append(f"steps became {_by(within)} within the trials{of_all} (p = {within.p:.2g})")
    return "; ".join(words)


def _seen(trend: Trend | None) -> Trend | None:
    return trend if trend is not None and trend.significant else None


def _by(trend: Trend) -> str:
    return f"{abs(trend.rise):.0%} {'slower' if trend.rise > 0 else 'faster'}"


def side_by_side(environment: Environment) -> str:
    """What trials that ran at the same time shared; empty if each had a machine alone."""
    at_once = environment.side_by_side
    if at_once is None or at_once.blocks is None:
        return ""
    where = f"each on {count(at_once.cores, 'core')}" if at_once.cores else "each on its own GPU"
    shared = "memory and caches" if at_once.cores else "processors and memory of the CPU"
    alone = "without --parallel it is measured alone"
    if environment.cluster is not None:
        where, alone = "on one machine", "with --resources of a whole machine it is measured alone"
    blocks = f"{at_once.blocks} trials ran side by side"
    return f"{blocks}, {where}, and shared {shared}: speed was measured beside others; {alone}"


def cluster(used: Cluster | None) -> str:
    """On how many machines of a cluster blocks ran, and which were left out; empty without a cluster."""
    if used is None or used.machines is None:
        return ""
    words = f"the trials ran on {count(used.machines, 'machine')} of a Ray cluster"
    if used.other_machines:
        names = ", ".join(sorted(set(used.other_machines)))
        words += f"; {count(len(used.other_machines), 'machine')} of another kind left out ({names})"
    if used.busy_machines:
        words += f"; {used.busy_machines} in use by others left out"
    return words
