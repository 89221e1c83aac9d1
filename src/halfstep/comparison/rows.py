"""One trial as a row of the comparison object: what was measured, or absent with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import starmap
from typing import Any

from halfstep import codec
from halfstep.comparison.model.figures import Spread
from halfstep.comparison.model.trials import NonFinite, TrialRow
from halfstep.comparison.statistics.intervals import Times
from halfstep.comparison.trial_cost import with_energy, with_memory, with_time_shares
from halfstep.meters import Absent, summary
from halfstep.passed_on import Keywords
from halfstep.record import Record, events
from halfstep.record.ran import Ran
from halfstep.record.stored import PARTS, together
from halfstep.trials import Outcome, once
from halfstep.words import absent
from halfstep.words.ran import words

#: steps left out at the start of each trial: first allocations, compilation, the sampled step
WARMUP = 5


@once
def trial_row(outcome: Outcome, command: tuple[str, ...], log: str) -> TrialRow:
    """One trial as a row of the comparison object."""
    record, end, sample = outcome.record, outcome.record.end, outcome.record.sample
    times = measured(outcome)
    center = summary(times) if times else Absent(absent.NO_TIMED_STEP)
    step = None if isinstance(center, Absent) else Spread(center.median, center.low, center.high)
    share = _matmul_share(sample.get("matmul_flops"))
    samples, ranks = sample.get("samples"), [record, *outcome.ranks]
    unsampled = _no_sample(record.steps, sample)
    ran = Ran.of(record)
    row = TrialRow(
        precision=outcome.trial.precision,
        recipe=outcome.trial.precision,
        ran_as=words(ran) if record.steps else None,
        ran=ran,
        emulated=bool(record.takeover.get("emulated")),
        seed=outcome.trial.seed,
        repeat=outcome.trial.repeat,
        status=outcome.status,
        reason=outcome.reason,
        steps=len(record.steps),
        skipped_steps=sum(bool(step.get("skipped")) for step in record.steps),
        warmup_steps=warmup_of(len(record.steps)),
        losses=tuple(_finite(loss) for loss in record.losses),
        step_seconds=step,
        step_times=tuple(record.step_seconds),
        steps_per_second=1 / step.median if step and step.median else None,
        samples_per_second=samples / step.median if step and step.median and samples else None,
        memory_parts_absent=dict(sample.get("memory_absent") or {}),
        matmul_share=share,
        matmul_flops=sample.get("matmul_flops"),
        matmul_share_absent=None if share else unsampled,
        odd_size_share=_odd_share(sample),
        logged={n: tuple((step, _finite(x)) for step, x in pairs) for n, pairs in record.logged.items()},
        loss_scale=tuple(_loss_scales(record.steps)),
        first_nonfinite=None if record.nonfinite is None else codec.read(NonFinite, record.nonfinite),
        load=end.get("load"),
        load_absent=end.get("load_absent"),
        warnings=(
            *record.warnings,
            *starmap(absent.failed_look, record.absent.items()),
            *_ran_otherwise(record, ran, share or {}),
        ),
        own_amp=tuple(record.own_amp),
        device=record.takeover.get("device"),
        framework=record.takeover.get("framework"),
        log=log,
        exit_code=outcome.exit_code,
        command=command,
        takeover_seconds=record.takeover.get("seconds"),
        seconds=outcome.seconds,
    )
    row = with_memory(_with_peak(row, ranks), sample.get("memory"), ranks, unsampled)
    row = with_energy(_with_stored(row, ranks, unsampled), end, (samples or 0) * len(ranks))
    row = with_time_shares(row, sample, len(record.steps))
    if row.status == "damaged":
        return _damaged(row)
    return _unmeasured(row) if row.emulated else row


def _damaged(row: TrialRow) -> TrialRow:
    """With the same reason for every figure that is absent, as the trial's record cannot be used."""
    reasons: Keywords = {f.name: getattr(row, f.name) for f in fields(row) if f.name.endswith("_absent")}
    changes: Keywords = {
        name: dict.fromkeys(why, row.reason) if isinstance(why, Mapping) else row.reason
        for name, why in reasons.items()
        if why
    }
    return replace(row, **changes | {"step_seconds_absent": row.reason})


def _unmeasured(row: TrialRow) -> TrialRow:
    """Without figures of speed, memory and energy: they would measure the emulation, not the precision."""
    figures = (
        "step_seconds", "steps_per_second", "samples_per_second", "peak_memory_bytes", "peak_memory_how", "memory",
        "energy_joules", "joules_per_step", "joules_per_sample", "time_shares", "profiled_step",
    )  # fmt: skip
    lacking = ("step_seconds", "peak_memory", "memory", "workspace", "energy", "joules_per_step", "joules_per_sample",
              "time_shares")  # fmt: skip
    changes: Any = {**dict.fromkeys(figures), **{f"{figure}_absent": absent.EMULATED for figure in lacking}}
    return replace(row, step_times=(), **changes)


def warmup_of(steps: int) -> int:
    """How many steps at the start are left out: :data:`WARMUP`, or fewer if the run is short; at least 2."""
    return max(2, min(WARMUP, steps // 4))


def enough_steps(wanted: int) -> int:
    """How many steps a trial has to make so that ``wanted`` of them count: warm-up and the profiled step do not.

    Example: of 11 steps 8 count, as the first 2 are warm-up and the third is profiled.
    """
    return next(n for n in range(wanted, wanted + 2 * WARMUP) if n - max(warmup_of(n), 3) >= wanted)


@once
def measured(outcome: Outcome) -> Times:
    """Seconds of the steps that count: after the warm-up, and neither sampled nor profiled."""
    if outcome.record.takeover.get("emulated"):
        return Times()
    steps = outcome.record.steps[warmup_of(len(outcome.record.steps)) :]
    return Times(x for s in steps if (x := s.get("seconds")) is not None and not s.get("sampled"))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _matmul_share(flops: Mapping[str, float] | None) -> dict[str, float] | None:
    total = sum((flops or {}).values())
    return {name: count / total for name, count in (flops or {}).items()} if total else None


def _odd_share(sample: events.Sample) -> float | None:
    """Share of the products' FLOPs whose sizes do not suit matrix units."""
    total = sum((sample.get("matmul_flops") or {}).values())
    odd = sample.get("odd_flops")
    return odd / total if total and odd is not None else None


def _no_sample(steps: Sequence[object], sample: events.Sample) -> str:
    if "absent" in sample:
        return str(sample["absent"])
    if sample:
        return absent.NO_PRODUCT
    return absent.SECOND_STEP if len(steps) < 2 else absent.NOT_SAMPLED


def _with_peak(row: TrialRow, ranks: Sequence[Record]) -> TrialRow:
    """With its peak memory: of one process; for several ranks their sum, and the largest one in a separate field."""
    peaks = [record.end.get("peak_memory_bytes") for record in ranks]
    known = [peak for peak in peaks if peak is not None]
    if not ranks[0].steps:
        return replace(row, peak_memory_absent=absent.NO_STEP)
    if len(known) < len(peaks):
        reason = next((r.end["peak_memory_absent"] for r in ranks if "peak_memory_absent" in r.end), None)
        return replace(row, peak_memory_absent=reason or absent.PEAK_UNKNOWN)
    row = replace(row, peak_memory_bytes=sum(known), peak_memory_how=ranks[0].end.get("peak_memory_how"))
    return (
        row if len(known) == 1 else replace(row, peak_memory_largest_rank_bytes=max(known), ranks=len(known))
    )


def _with_stored(row: TrialRow, ranks: Sequence[Record], otherwise: str) -> TrialRow:
    """With bytes by format of weights, gradients and optimizer state, over all ranks."""
    found = together(record.stored for record in ranks)
    if not any(record.stored.measured or record.stored.absent for record in ranks):
        return replace(row, stored_absent=dict.fromkeys(PARTS, otherwise))
    return replace(row, stored=found.as_json(), stored_absent=dict(found.absent))


def _loss_scales(steps: Sequence[events.Step]) -> list[tuple[float, float]]:
    """[step, scale] where the scale changed."""
    changes: list[tuple[float, float]] = []
    for index, step in enumerate(steps):
        scale = step.get("loss_scale")
        if scale is not None and (not changes or changes[-1][1] != scale):
            changes.append((index, scale))
    return changes


def _ran_otherwise(record: Record, ran: Ran, share: Mapping[str, float]) -> list[str]:
    """A warning if most products ran in another format than was asked for."""
    asked = {ran.asked: ""} if ran.asked else _own_words(record.own_asks)
    most = max(share, key=lambda name: share[name], default="")
    return [
        f"{who}asked for {wanted}, but only {share.get(wanted, 0.0):.0%} of the matrix-product FLOPs ran in it "
        f"({share[most]:.0%} in {most})"
        for wanted, who in asked.items()
        if share and share.get(wanted, 0.0) < 0.5
    ]


def _own_words(asks: dict[str, str]) -> dict[str, str]:
    """Format -> the parts of the script that ask for it, as the subject of a sentence."""
    return {wanted: " and ".join(w for w, f in asks.items() if f == wanted) + " " for wanted in asks.values()}
