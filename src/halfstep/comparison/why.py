"""Why a precision is no faster, and why it needs no less memory: what was measured, as a short list.

Each entry has its words, its share (of the step, of the peak; the shares of a list sum to one, facts have none), of
several trials the range of the share, and the figure of the comparison object that it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, geometric_mean

from halfstep.comparison.model import EvidenceRef, Explanation, PrecisionRow, TrialRow
from halfstep.ran import kinds_of_product

#: a gain below this is explained too: the hardware's units are twice as fast and more
LITTLE_FASTER = 1.3
#: so is a peak above this share of the baseline's
LITTLE_LESS = 0.9
#: a share of odd sizes, or of time between operations, that is worth a word
WORTH_A_WORD = 0.1
LAUNCH_BOUND = 0.3
#: what ended so is of no use here, however fast or small its first steps were
_NO_USE = ("out_of_memory", "failed", "interrupted", "unsupported", "damaged")

_WORK = {
    "products": "matrix products, convolutions and attention",
    "other": "other operations: norms, activations, sums, copies",
    "casts": "casts from one format to another",
    "optimizer": "the optimizer's step",
    "data": "loading data",
    "host": "between operations: Python and the framework",
}
_IDLE = "the GPU idle, waiting for the host to launch work"

#: (index in the comparison's trials, row)
Trials = Sequence[tuple[int, TrialRow]]


def why(row: PrecisionRow, own: Trials, base: Trials) -> PrecisionRow:
    """The row with the reasons why it is no faster, and no smaller; none where there is nothing to explain.

    Of a precision with a trial that failed, ran out of memory or was stopped nothing is: why it is of no use is known.
    Nor of one that ran the same as the baseline.

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
        why_memory=tuple(_why_memory(row, own, base)) if _is_large(row) else (),
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
        reason = next((trial.time_shares_absent for _, trial in own), None) or "no trial was profiled"
        return [_entry(f"Where the time went is not known: {reason}.", None), *_facts(row, own, base)]
    index, seconds = known[0][0], row.step_time.median
    on_gpu = any(i == index and _on_gpu(trial) for i, trial in own)
    ours, theirs = _mean_shares(own), _mean_shares(base)
    before = _median_step(base)
    entries = []
    for kind, share in sorted(ours.items(), key=lambda item: -item[1]):
        there = "" if before is None or not theirs else _then(theirs.get(kind, 0.0) * before, row)
        name = _IDLE if kind == "host" and on_gpu else _WORK[kind]
        text = f"{name}: {_time(share * seconds)} of {_time(seconds)}{there}"
        ends = [shares.get(kind, 0.0) for _, shares in known]
        of_all = (min(ends), max(ends)) if len(ends) > 1 else (None, None)
        entries.append(_entry(text, share, index, "time_shares", kind, of_all=of_all))
    return entries + _facts(row, own, base)


def _then(seconds: float, row: PrecisionRow) -> str:
    return f" ({row.baseline}: {_time(seconds)})" if seconds else f" ({row.baseline}: none)"


def _facts(row: PrecisionRow, own: Trials, base: Trials) -> list[Explanation]:
    """What the shares do not say: units, sizes, the most that could be had, launches."""
    return [*_units(row, own), *_sizes(own), *_at_most(base, row), *_launches(own)]


def _units(row: PrecisionRow, own: Trials) -> list[Explanation]:
    if not row.ran.fp32_units or not own:
        return []
    where = f"{kinds_of_product(row.ran.fp32_units)} in fp32 units"
    if row.ran.in_fp32_units:
        text = f"No units for it here: {where}, which take as long as in fp32."
    else:
        text = f"{where}: this device's own are slower at these."
    return [_entry(text, None, own[0][0], "ran_as")]


def _sizes(own: Trials) -> list[Explanation]:
    index, share = next(((i, trial.odd_size_share) for i, trial in own if trial.odd_size_share), (0, 0.0))
    if (share or 0.0) < WORTH_A_WORD:
        return []
    text = f"{share:.0%} of the products' FLOPs have a side that is no multiple of 8, which matrix units pad."
    return [_entry(text, None, index, "odd_size_share")]


def _at_most(base: Trials, row: PrecisionRow) -> list[Explanation]:
    """Amdahl's law: were the products of the baseline free, its step would still take the rest."""
    shares = _mean_shares(base)
    products = shares.get("products", 0.0)
    if not shares or products >= 1:
        return []
    text = (
        f"Products are {products:.0%} of a step in {row.baseline}: were they free, "
        f"it would be {1 / (1 - products):.2f}× faster at most."
    )
    return [_entry(text, None, base[0][0], "time_shares", "products")]


def _launches(own: Trials) -> list[Explanation]:
    for index, trial in own:
        step, shares = trial.profiled_step, trial.time_shares or {}
        if step and step.median_operation_seconds and shares.get("host", 0.0) >= LAUNCH_BOUND:
            what = "kernels" if _on_gpu(trial) else "operations"
            text = (
                f"Small {what}: {step.operations:,} in a step, {_time(step.median_operation_seconds)} each at "
                "the median; larger batches or torch.compile would help more than a format."
            )
            return [_entry(text, None, index, "profiled_step")]
    return []


def _on_gpu(trial: TrialRow) -> bool:
    return trial.profiled_step is not None and trial.profiled_step.device == "cuda"


def _mean_shares(trials: Trials) -> dict[str, float]:
    """The mean of each kind's share over the trials that have any: it sums to one as each trial's does."""
    found = [trial.time_shares for _, trial in trials if trial.time_shares]
    kinds = dict.fromkeys(kind for shares in found for kind in shares)
    return {kind: fmean(shares.get(kind, 0.0) for shares in found) for kind in kinds}


def _median_step(trials: Trials) -> float | None:
    """As the comparison's table has it: the geometric mean of the trials' medians."""
    steps = [trial.step_seconds.median for _, trial in trials if trial.step_seconds]
    return geometric_mean(steps) if steps else None


# --- memory ------------------------------------------------------------------------------------------------


def _why_memory(row: PrecisionRow, own: Trials, base: Trials) -> list[Explanation]:
    for index, trial in own:
        if trial.memory and trial.peak_memory_bytes:
            theirs = next((other.memory for _, other in base if other.memory), {})
            return _memory_of(row, index, trial, trial.memory, trial.peak_memory_bytes, theirs)
    reason = next((trial.memory_absent for _, trial in own), None) or "no trial told"
    return [_entry(f"Where the memory goes is not known: {reason}.", None)]


def _memory_of(
    row: PrecisionRow, index: int, trial: TrialRow, parts: Bytes, peak: int, theirs: Bytes
) -> list[Explanation]:
    """The parts of a trial's peak, the largest first, beside the baseline's."""
    rest = peak - sum(size for name, size in parts.items() if name != "workspace")
    whole = peak if rest > 0 else peak - rest
    told = [*_kept(parts, theirs, row), *_changed(parts, theirs, row)]
    if rest > 0:
        words = _REST if trial.workspace_absent else _WORKSPACE
        told.append((f"{words}: {_size(rest)}", rest, ("peak_memory_bytes",)))
    shown = sorted((entry for entry in told if entry[1] > 0), key=lambda entry: -entry[1])
    return [_entry(text, size / whole, index, *where) for text, size, where in shown]


#: part -> bytes
Bytes = Mapping[str, int]

_REST = "the rest of the resident set: data, code, libraries, the allocator's reserve, workspace"
_WORKSPACE = "workspace: what operations hold for a moment"


def _kept(parts: Bytes, theirs: Bytes, row: PrecisionRow) -> list[tuple[str, int, tuple[str, ...]]]:
    """Weights, gradients and optimizer state: of one size in both where mixed precision keeps them in fp32."""
    size, before = (
        sum(p.get(name, 0) for name in ("weights", "gradients", "optimizer")) for p in (parts, theirs)
    )
    same = f", as in {row.baseline}: mixed precision keeps them in fp32" if size == before else ""
    other = f" ({row.baseline}: {_size(before)})" if theirs and not same else ""
    told = f"weights, gradients and optimizer state: {_size(size)}{same}{other}"
    return [(told, size, ("memory", "weights"))]


def _changed(parts: Bytes, theirs: Bytes, row: PrecisionRow) -> list[tuple[str, int, tuple[str, ...]]]:
    before = theirs.get("activations")
    there = "" if before is None else f" ({row.baseline}: {_size(before)})"
    kept, casts = parts.get("activations", 0), parts.get("casts", 0)
    copies = f"16-bit copies of the weights, in autocast's cache: {_size(casts)}"
    return [
        (f"activations kept for the backward pass: {_size(kept)}{there}", kept, ("memory", "activations")),
        (copies, casts, ("memory", "casts")),
    ]


def _entry(
    text: str,
    share: float | None,
    trial: int | None = None,
    *figure: str,
    of_all: tuple[float | None, float | None] = (None, None),
) -> Explanation:
    """An entry that rests on a figure of a trial; ``of_all``: the lowest and the highest share of several."""
    evidence = EvidenceRef() if trial is None else EvidenceRef("trials", trial, figure)
    return Explanation(text[:1].upper() + text[1:], share, evidence, *of_all)


def _time(seconds: float) -> str:
    size, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))
    return f"{seconds / size:.3g} {unit}"


def _size(size: float) -> str:
    for power, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= power:
            return f"{size / power:.3g} {unit}"
    return f"{size:.0f} B"
