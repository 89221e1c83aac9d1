"""Why a precision is no faster, and why it needs no less memory: a short list from what was measured.

Each entry has the figure that it rests on, and either its share of the step or of the peak (the shares of a list sum
to one), with the range over several trials; or no share, if it is a fact.
:mod:`halfstep.report.words.explanations` words it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, geometric_mean

from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import Explanation, PrecisionRow

#: a smaller gain is explained, too, as the hardware's units are at least twice as fast
LITTLE_FASTER = 1.3
#: a peak above this share of the baseline's is explained
LITTLE_LESS = 0.9
#: odd sizes are mentioned from this share on, and time between operations from ``LAUNCH_BOUND`` on
WORTH_A_WORD = 0.1
LAUNCH_BOUND = 0.3
#: a precision with such a trial is not explained: why it is of no use is known
_NO_USE = ("out_of_memory", "failed", "interrupted", "unsupported", "damaged")

#: (index in the comparison's trials, row)
Trials = Sequence[tuple[int, TrialRow]]


def why(row: PrecisionRow, own: Trials, base: Trials) -> PrecisionRow:
    """The row with the reasons why it is no faster, and no smaller; none if there is nothing to explain.

    There is nothing to explain if a trial of it failed or was stopped, or if it ran the same as the baseline.

    Args:
        row: one precision.
        own: its trials that ended well.
        base: the baseline's.
    """
    if row.status in _NO_USE or row.same_as_baseline:
        return row
    return replace(
        row,
        why_no_faster=tuple(_why_no_faster(row, own, base)) if _is_slow(row) else (),
        why_memory=tuple(_why_memory(own)) if _is_large(row) else (),
    )


def _is_slow(row: PrecisionRow) -> bool:
    ratio = row.speed_ratio
    return (
        ratio is not None and not ratio.disturbed and (not ratio.significant or ratio.value < LITTLE_FASTER)
    )


def _is_large(row: PrecisionRow) -> bool:
    return row.memory_ratio is not None and row.memory_ratio.value > LITTLE_LESS


# --- time --------------------------------------------------------------------------------------------------


def _why_no_faster(row: PrecisionRow, own: Trials, base: Trials) -> list[Explanation]:
    known = [(i, trial.time_shares) for i, trial in own if trial.time_shares]
    if not known or row.step_time is None:
        return [_entry(None), *_facts(row, own, base)]
    index = known[0][0]
    entries = []
    for kind, share in sorted(mean_shares(own).items(), key=lambda item: -item[1]):
        ends = [shares.get(kind, 0.0) for _, shares in known]
        of_all = (min(ends), max(ends)) if len(ends) > 1 else (None, None)
        entries.append(_entry(share, index, "time_shares", kind, of_all=of_all))
    return entries + _facts(row, own, base)


def _facts(row: PrecisionRow, own: Trials, base: Trials) -> list[Explanation]:
    """What the shares do not show: units, sizes, the largest possible gain, launches of small operations."""
    sizes = [] if row.ran.without_units else _sizes(own)
    return [*_units(row, own), *sizes, *_at_most(base), *_launches(own)]


def _units(row: PrecisionRow, own: Trials) -> list[Explanation]:
    return [_entry(None, own[0][0], "ran_as")] if (row.ran.fp32_units or row.ran.software) and own else []


def _sizes(own: Trials) -> list[Explanation]:
    index, share = next(((i, trial.odd_size_share) for i, trial in own if trial.odd_size_share), (0, 0.0))
    return [_entry(None, index, "odd_size_share")] if (share or 0.0) >= WORTH_A_WORD else []


def _at_most(base: Trials) -> list[Explanation]:
    """Amdahl's law: if the baseline's products took no time, its step would still take the rest."""
    shares = mean_shares(base)
    if not shares or shares.get("products", 0.0) >= 1:
        return []
    return [_entry(None, base[0][0], "time_shares", "products")]


def _launches(own: Trials) -> list[Explanation]:
    for index, trial in own:
        step, shares = trial.profiled_step, trial.time_shares or {}
        if step and step.median_operation_seconds and shares.get("host", 0.0) >= LAUNCH_BOUND:
            return [_entry(None, index, "profiled_step")]
    return []


def mean_shares(trials: Trials) -> dict[str, float]:
    """The mean of each kind's share over the trials that have shares; the means sum to one."""
    found = [trial.time_shares for _, trial in trials if trial.time_shares]
    kinds = dict.fromkeys(kind for shares in found for kind in shares)
    return {kind: fmean(shares.get(kind, 0.0) for shares in found) for kind in kinds}


def median_step(trials: Trials) -> float | None:
    """The geometric mean of the trials' median steps, as in the comparison's table."""
    steps = [trial.step_seconds.median for _, trial in trials if trial.step_seconds]
    return geometric_mean(steps) if steps else None


# --- memory ------------------------------------------------------------------------------------------------

#: parts that have the same size in every mixed precision, which keeps them in fp32
KEPT = ("weights", "gradients", "optimizer")


def _why_memory(own: Trials) -> list[Explanation]:
    for index, trial in own:
        if trial.memory and trial.peak_memory_bytes:
            return _memory_of(index, trial.memory, trial.peak_memory_bytes)
    return [_entry(None)]


def _memory_of(index: int, parts: Mapping[str, int], peak: int) -> list[Explanation]:
    """The parts of a trial's peak, the largest first."""
    rest = peak - sum(size for name, size in parts.items() if name != "workspace")
    whole = peak if rest > 0 else peak - rest
    sizes: dict[tuple[str, ...], int] = {
        ("memory", "weights"): sum(parts.get(name, 0) for name in KEPT),
        ("memory", "activations"): parts.get("activations", 0),
        ("memory", "casts"): parts.get("casts", 0),
        ("peak_memory_bytes",): rest,
    }
    shown = sorted((each for each in sizes.items() if each[1] > 0), key=lambda each: -each[1])
    return [_entry(size / whole, index, *where) for where, size in shown]


def _entry(
    share: float | None,
    trial: int | None = None,
    *figure: str,
    of_all: tuple[float | None, float | None] = (None, None),
) -> Explanation:
    """An entry that rests on a figure of a trial; ``of_all``: the lowest and highest share of several trials."""
    evidence = EvidenceRef() if trial is None else EvidenceRef("trials", trial, figure)
    return Explanation("", share, evidence, *of_all)
