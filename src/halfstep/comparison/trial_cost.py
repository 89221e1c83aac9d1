"""What a trial cost, as fields of its row: joules, memory by part, and where its time went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from halfstep import codec
from halfstep.comparison.model.trials import ProfiledStep, TrialRow
from halfstep.record import Record
from halfstep.record.events import End, Sample
from halfstep.words import absent

#: if a step has at least this many times the baseline's products, or fewer by this factor, it does other work
OTHER_WORK = 1.5
#: the loss scale must not change in so many steps: a program may repeat passes when it does
_SAMPLED = 3


def with_energy(row: TrialRow, end: End, samples: int) -> TrialRow:
    """With the joules of the run, of a step and of a sample; absent with the reason.

    Args:
        end: the record's last event.
        samples: how many a step takes, over all ranks; 0 if that is not known.
    """
    joules, a_step = end.get("energy_joules"), end.get("joules_per_step")
    reason = end.get("energy_absent", absent.NO_END) if joules is None else None
    per_step = reason or end.get("joules_per_step_absent", absent.NOT_IN_RECORD)
    per_sample = absent.NO_SAMPLES if a_step is not None else per_step
    return replace(
        row,
        energy_joules=joules,
        energy_absent=reason,
        energy_how=end.get("energy_how"),
        joules_per_step=a_step,
        joules_per_step_absent=None if a_step is not None else per_step,
        joules_per_sample=a_step / samples if a_step is not None and samples else None,
        joules_per_sample_absent=None if a_step is not None and samples else per_sample,
    )


def with_memory(
    row: TrialRow, parts: Mapping[str, int] | None, ranks: Sequence[Record], otherwise: str
) -> TrialRow:
    """With bytes by part; if the peak counts tensors only, with the rest of it as ``workspace``.

    Workspace is what operations hold for a short time, including gradients of activations: the allocator's peak minus
    weights, gradients, optimizer state, activations and cast weights.
    """
    if not parts:
        return replace(row, memory_absent=otherwise, workspace_absent=otherwise)
    workspace = _workspace(parts, ranks[0].end)
    if isinstance(workspace, str):
        return replace(row, memory=parts, workspace_absent=workspace)
    return replace(row, memory={**parts, "workspace": workspace})


def _workspace(parts: Mapping[str, int], end: End) -> int | str:
    """The peak minus the parts, in bytes, or why that is not known."""
    peak = end.get("peak_memory_bytes")
    if peak is None:
        return str(end.get("peak_memory_absent", absent.PEAK_UNKNOWN))
    if not end.get("peak_memory_of_tensors"):
        return absent.RESIDENT_PEAK
    if "activations" not in parts:
        return absent.NO_ACTIVATIONS
    if peak < sum(parts.values()):
        return absent.PEAK_BELOW_PARTS
    return peak - sum(parts.values())


def with_time_shares(row: TrialRow, sample: Sample, steps: int) -> TrialRow:
    """With shares of the profiled step by the kind of work, and that step's own figures."""
    shares, profiled = sample.get("time_shares"), sample.get("profiled")
    reached = absent.NO_SHARES if steps > 2 else absent.THIRD_STEP
    return replace(
        row,
        time_shares=shares,
        time_shares_absent=None if shares else sample.get("time_shares_absent", reached),
        profiled_step=None if profiled is None else codec.read(ProfiledStep, profiled),
    )


def work_ratio(own: Sequence[TrialRow], base: Sequence[TrialRow]) -> float | None:
    """FLOPs of products in a precision's sampled step over those in the baseline's; None if that is about one.

    Rounding changes how often adaptive solvers and line searches evaluate a model. Of all trials that share a seed with
    the baseline, the ratio nearest to one counts.
    """
    theirs = {row.seed: total for row in base if (total := _products(row))}
    pairs = [(total, theirs[row.seed]) for row in own if row.seed in theirs and (total := _products(row))]
    ratios = [ours / expected for ours, expected in pairs]
    if not ratios:
        return None
    nearest = min(ratios, key=lambda ratio: abs(math.log(ratio)))
    return nearest if not 1 / OTHER_WORK < nearest < OTHER_WORK else None


def _products(row: TrialRow) -> float:
    """FLOPs of the sampled step's products; 0 if none were counted, or passes may have been repeated."""
    moved = any(0 < step <= _SAMPLED for step, _ in row.loss_scale)
    return 0.0 if moved else sum((row.matmul_flops or {}).values())


def without_energy(row: TrialRow, reason: str) -> TrialRow:
    """The row without energy, for a reason that its own record cannot know."""
    return with_energy(row, {"energy_absent": reason}, 0)
