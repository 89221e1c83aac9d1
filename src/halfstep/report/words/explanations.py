"""Why a precision is no faster, or needs no less memory, in words: each entry from the figures that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import Explanation, PrecisionRow
from halfstep.comparison.why import KEPT, Trials, mean_shares, median_step
from halfstep.report.units import bytes_, ratio, seconds
from halfstep.words.absent import NO_TRIAL
from halfstep.words.ran import kinds_of_product

_WORK = {
    "products": "matrix products, convolutions and attention",
    "other": "other operations: norms, activations, sums, copies",
    "casts": "casts from one format to another",
    "optimizer": "the optimizer's step",
    "data": "loading data",
    "host": "between operations: Python and the framework",
}
_IDLE = "the GPU idle, waiting for the host to launch work"

_REST = "the rest of the resident set: data, code, libraries, the allocator's reserve, workspace"
_WORKSPACE = "workspace: what operations hold for a short time"


def no_faster_words(entry: Explanation, row: PrecisionRow, own: Trials, base: Trials) -> str:
    """An entry of ``why_no_faster``, a clause without a full stop.

    Args:
        entry: the entry.
        row: the precision.
        own: its trials, with their places in the comparison.
        base: the baseline's.
    """
    trial = _trial(entry, own)
    field = entry.evidence.field
    if trial is not None and entry.share is not None:
        return _work(str(entry.evidence.path[-1]), entry.share, row, trial, own, base)
    if field == "ran_as":
        if software := row.ran.software:
            return f"no units for it here: {software} computes these products in software, more slowly than in fp32"
        where = f"{kinds_of_product(row.ran.fp32_units)} in fp32 units"
        if row.ran.in_fp32_units:
            return f"no units for it here: {where}, which take as long as in fp32"
        return f"{where}: this device's own units are slower for these"
    if field == "odd_size_share" and trial is not None:
        share = f"{trial.odd_size_share or 0.0:.0%}"
        return f"{share} of the products' FLOPs have a side that is no multiple of 8, which matrix units pad"
    if field == "time_shares":
        products = mean_shares(base)["products"]
        return (
            f"products are {products:.0%} of a step in {row.baseline}: if they took no time, "
            f"it would be {ratio(1 / (1 - products))} faster at most"
        )
    if trial is not None and trial.profiled_step is not None:
        step, what = trial.profiled_step, "kernels" if trial.on_gpu else "operations"
        return (
            f"small {what}: {step.operations:,} in a step, {seconds(step.median_operation_seconds or 0.0)} each at "
            "the median; larger batches or torch.compile would help more than a format"
        )
    reason = _absent([t.time_shares_absent for _, t in own], "no trial was profiled")
    return f"where the time went is not known: {reason}"


def _work(kind: str, share: float, row: PrecisionRow, trial: TrialRow, own: Trials, base: Trials) -> str:
    """A kind of work with its time, and the baseline's time for it."""
    whole = row.step_time.median if row.step_time else 0.0
    theirs, before = mean_shares(base), median_step(base)
    there = ""
    if before is not None and theirs:
        there = f" ({row.baseline}: {seconds(theirs[kind] * before) if theirs.get(kind) else 'none'})"
    name = _IDLE if kind == "host" and trial.on_gpu else _WORK[kind]
    return f"{name}: {seconds(share * whole)} of {seconds(whole)}{there}"


def no_smaller_words(entry: Explanation, row: PrecisionRow, own: Trials, base: Trials) -> str:
    """An entry of ``why_memory``, a clause without a full stop; arguments as of :func:`no_faster_words`."""
    trial = _trial(entry, own)
    if trial is None or trial.memory is None:
        reason = _absent([t.memory_absent for _, t in own], NO_TRIAL)
        return f"where the memory goes is not known: {reason}"
    parts = trial.memory
    theirs: Mapping[str, int] = next((other.memory for _, other in base if other.memory), {})
    part = str(entry.evidence.path[-1])
    if part == "weights":
        size, before = (sum(p.get(name, 0) for name in KEPT) for p in (parts, theirs))
        text = f"weights, gradients and optimizer state: {bytes_(size)}"
        if size == before:
            return f"{text}, as in {row.baseline}: mixed precision keeps them in fp32"
        return f"{text} ({row.baseline}: {bytes_(before)})" if theirs else text
    if part == "activations":
        there = f" ({row.baseline}: {bytes_(theirs[part])})" if part in theirs else ""
        return f"activations kept for the backward pass: {bytes_(parts[part])}{there}"
    if part == "casts":
        return f"16-bit copies of the weights, in autocast's cache: {bytes_(parts[part])}"
    rest = (trial.peak_memory_bytes or 0) - sum(size for name, size in parts.items() if name != "workspace")
    return f"{_REST if trial.workspace_absent else _WORKSPACE}: {bytes_(rest)}"


def _trial(entry: Explanation, own: Trials) -> TrialRow | None:
    """The trial of this precision that the entry rests on; None if there is none."""
    if entry.evidence.table is None:
        return None
    return next((trial for place, trial in own if place == entry.evidence.row), None)


def _absent(reasons: Sequence[str | None], otherwise: str) -> str:
    """The first trial's reason."""
    return (reasons[0] if reasons else None) or otherwise
