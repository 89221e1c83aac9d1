"""Why a precision is no faster, and why it needs no less memory: what was measured, as a short list.

Each entry has its words, its share (of the step, of the peak; the shares of a list sum to one, facts have none), of
several trials the range of the share, and the figure of the comparison object that it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Any

from halfstep.ran import Ran, kinds_of_product

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
Trials = Sequence[tuple[int, Mapping[str, Any]]]
Entry = dict[str, Any]


def why(verdict: Mapping[str, Any], own: Trials, base: Trials) -> dict[str, list[Entry]]:
    """``why_no_faster`` and ``why_memory`` of one verdict; empty lists where there is nothing to explain.

    Of a precision with a trial that failed, ran out of memory or was stopped nothing is: why it is of no use is known.
    Nor of one that ran the same as the baseline.

    Args:
        verdict: a row of the comparison's verdicts.
        own: the precision's trials that ended well.
        base: the baseline's.
    """
    if verdict.get("status") in _NO_USE or verdict.get("same_as_baseline"):
        return {"why_no_faster": [], "why_memory": []}
    return {
        "why_no_faster": _why_no_faster(verdict, own, base) if _is_slow(verdict) else [],
        "why_memory": _why_memory(verdict, own, base) if _is_large(verdict) else [],
    }


def _is_slow(verdict: Mapping[str, Any]) -> bool:
    ratio = verdict.get("speed_ratio")
    disturbed = ratio is not None and ratio.get("disturbed")
    return (
        ratio is not None and not disturbed and (not ratio["significant"] or ratio["value"] < LITTLE_FASTER)
    )


def _is_large(verdict: Mapping[str, Any]) -> bool:
    ratio = verdict.get("memory_ratio")
    return ratio is not None and ratio["value"] > LITTLE_LESS


# --- time --------------------------------------------------------------------------------------------------


def _why_no_faster(verdict: Mapping[str, Any], own: Trials, base: Trials) -> list[Entry]:
    known = [(i, row) for i, row in own if row.get("time_shares")]
    if not known:
        reason = next((row.get("time_shares_absent") for _, row in own), None) or "no trial was profiled"
        return [_entry(f"Where the time went is not known: {reason}.", None, ""), *_facts(verdict, own, base)]
    index = known[0][0]
    seconds = verdict["step_time"]["median"]
    ours, theirs = _mean_shares(row for _, row in known), _mean_shares(row for _, row in base)
    before = _median_step(base)
    entries = []
    for kind, share in sorted(ours.items(), key=lambda item: -item[1]):
        there = "" if before is None or not theirs else _then(theirs.get(kind, 0.0) * before, verdict)
        name = _IDLE if kind == "host" and _on_gpu(known[0][1]) else _WORK[kind]
        text = f"{name}: {_time(share * seconds)} of {_time(seconds)}{there}"
        entry = _entry(text, share, f"trials[{index}].time_shares.{kind}")
        entries.append(entry | _range([row["time_shares"].get(kind, 0.0) for _, row in known]))
    return entries + _facts(verdict, own, base)


def _range(shares: Sequence[float]) -> dict[str, float]:
    """The lowest and the highest share of several trials; of one nothing."""
    return {"share_low": min(shares), "share_high": max(shares)} if len(shares) > 1 else {}


def _then(seconds: float, verdict: Mapping[str, Any]) -> str:
    return f" ({verdict['baseline']}: {_time(seconds)})" if seconds else f" ({verdict['baseline']}: none)"


def _facts(verdict: Mapping[str, Any], own: Trials, base: Trials) -> list[Entry]:
    """What the shares do not say: units, sizes, the most that could be had, launches."""
    facts = [*_units(verdict, own), *_sizes(own), *_at_most(base, verdict), *_launches(own)]
    return [_entry(text, None, where) for text, where in facts]


def _units(verdict: Mapping[str, Any], own: Trials) -> list[tuple[str, str]]:
    ran = Ran.from_json(verdict.get("ran"))
    if not ran.fp32_units or not own:
        return []
    where = f"{kinds_of_product(ran.fp32_units)} in fp32 units"
    if ran.in_fp32_units:
        text = f"No units for it here: {where}, which take as long as in fp32."
    else:
        text = f"{where[:1].upper()}{where[1:]}: this device's own are slower at these."
    return [(text, f"trials[{own[0][0]}].ran_as")]


def _sizes(own: Trials) -> list[tuple[str, str]]:
    found = [(i, row["odd_size_share"]) for i, row in own if row.get("odd_size_share")]
    if not found or found[0][1] < WORTH_A_WORD:
        return []
    index, share = found[0]
    text = f"{share:.0%} of the products' FLOPs have a side that is no multiple of 8, which matrix units pad."
    return [(text, f"trials[{index}].odd_size_share")]


def _at_most(base: Trials, verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Amdahl's law: were the products of the baseline free, its step would still take the rest."""
    shares = _mean_shares(row for _, row in base)
    products = shares.get("products", 0.0)
    if not shares or products >= 1:
        return []
    text = (
        f"Products are {products:.0%} of a step in {verdict['baseline']}: were they free, "
        f"it would be {1 / (1 - products):.2f}× faster at most."
    )
    return [(text, f"trials[{base[0][0]}].time_shares.products")]


def _launches(own: Trials) -> list[tuple[str, str]]:
    for index, row in own:
        step, shares = row.get("profiled_step"), row.get("time_shares") or {}
        if step and step.get("median_operation_seconds") and shares.get("host", 0.0) >= LAUNCH_BOUND:
            what = "kernels" if _on_gpu(row) else "operations"
            text = (
                f"Small {what}: {step['operations']:,} in a step, {_time(step['median_operation_seconds'])} each at "
                "the median; larger batches or torch.compile would help more than a format."
            )
            return [(text, f"trials[{index}].profiled_step")]
    return []


def _on_gpu(row: Mapping[str, Any]) -> bool:
    return (row.get("profiled_step") or {}).get("device") == "cuda"


def _mean_shares(rows: Any) -> dict[str, float]:
    """The mean of each kind's share over the trials that have any: it sums to one as each trial's does."""
    found = [row["time_shares"] for row in rows if row.get("time_shares")]
    kinds = dict.fromkeys(kind for shares in found for kind in shares)
    return {kind: fmean(shares.get(kind, 0.0) for shares in found) for kind in kinds}


def _median_step(trials: Trials) -> float | None:
    """As the comparison's table has it: the geometric mean of the trials' medians."""
    steps = [row["step_seconds"]["median"] for _, row in trials if row.get("step_seconds")]
    return geometric_mean(steps) if steps else None


# --- memory ------------------------------------------------------------------------------------------------


def _why_memory(verdict: Mapping[str, Any], own: Trials, base: Trials) -> list[Entry]:
    found = next(((i, row) for i, row in own if row.get("memory") and row.get("peak_memory_bytes")), None)
    if found is None:
        reason = next((row.get("memory_absent") for _, row in own), None) or "no trial told"
        return [_entry(f"Where the memory goes is not known: {reason}.", None, "")]
    index, row = found
    theirs: Mapping[str, int] = next((other["memory"] for _, other in base if other.get("memory")), {})
    parts, peak = row["memory"], row["peak_memory_bytes"]
    rest = peak - sum(size for name, size in parts.items() if name != "workspace")
    whole = peak if rest > 0 else peak - rest
    told = [*_kept(parts, theirs, verdict), *_changed(parts, theirs, verdict)]
    if rest > 0:
        words = _REST if row.get("workspace_absent") else _WORKSPACE
        told.append((f"{words}: {_size(rest)}", rest, "peak_memory_bytes"))
    shown = sorted((entry for entry in told if entry[1] > 0), key=lambda entry: -entry[1])
    return [_entry(text, size / whole, f"trials[{index}].{where}") for text, size, where in shown]


_REST = "the rest of the resident set: data, code, libraries, the allocator's reserve, workspace"
_WORKSPACE = "workspace: what operations hold for a moment"


def _kept(
    parts: Mapping[str, int], theirs: Mapping[str, int], verdict: Mapping[str, Any]
) -> list[tuple[str, int, str]]:
    """Weights, gradients and optimizer state: of one size in both where mixed precision keeps them in fp32."""
    size, before = (
        sum(p.get(name, 0) for name in ("weights", "gradients", "optimizer")) for p in (parts, theirs)
    )
    same = f", as in {verdict['baseline']}: mixed precision keeps them in fp32" if size == before else ""
    other = f" ({verdict['baseline']}: {_size(before)})" if theirs and not same else ""
    return [(f"weights, gradients and optimizer state: {_size(size)}{same}{other}", size, "memory.weights")]


def _changed(
    parts: Mapping[str, int], theirs: Mapping[str, int], verdict: Mapping[str, Any]
) -> list[tuple[str, int, str]]:
    before = theirs.get("activations")
    there = "" if before is None else f" ({verdict['baseline']}: {_size(before)})"
    kept = parts.get("activations", 0)
    told = [(f"activations kept for the backward pass: {_size(kept)}{there}", kept, "memory.activations")]
    casts = parts.get("casts", 0)
    return [
        *told,
        (f"16-bit copies of the weights, in autocast's cache: {_size(casts)}", casts, "memory.casts"),
    ]


def _entry(text: str, share: float | None, evidence: str) -> Entry:
    return {"text": text[:1].upper() + text[1:], "share": share, "evidence": evidence}


def _time(seconds: float) -> str:
    size, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))
    return f"{seconds / size:.3g} {unit}"


def _size(size: float) -> str:
    for power, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= power:
            return f"{size / power:.3g} {unit}"
    return f"{size:.0f} B"
