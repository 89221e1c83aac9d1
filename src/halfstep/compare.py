"""Trials side by side: ratios with intervals, verdicts, and the object that every report is drawn from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from halfstep.errors import UsageError
from halfstep.intervals import Interval, mean_difference, ratio_of_medians
from halfstep.meters import Absent, summary
from halfstep.trials import Outcome

SCHEMA = "halfstep/comparison/1"

#: steps left out at the start of each trial: first allocations, compilation, the sampled step
WARMUP = 5

#: the last part of a run whose mean loss is called the final loss
FINAL_SHARE = 0.1


def trial_row(outcome: Outcome, command: Sequence[str], log: str) -> dict[str, Any]:
    """One trial as a row of the comparison object."""
    record, end, sample = outcome.record, outcome.record.end, outcome.record.sample
    warmup = warmup_of(len(record.steps))
    times = record.step_seconds
    measured = _measured(outcome)
    center = summary(measured) if measured else Absent("no step after the warm-up")
    seconds = None if isinstance(center, Absent) else center.median
    share = _matmul_share(sample.get("matmul_flops"))
    samples = sample.get("samples")
    ranks = [record, *outcome.ranks]
    return {
        "precision": outcome.trial.precision,
        "recipe": outcome.trial.precision,
        "ran_as": record.takeover.get("ran_as"),
        "emulated": False,
        "seed": outcome.trial.seed,
        "repeat": outcome.trial.repeat,
        "status": outcome.status,
        "reason": outcome.reason,
        "steps": len(record.steps),
        "skipped_steps": sum(bool(step.get("skipped")) for step in record.steps),
        "warmup_steps": warmup,
        "losses": [_finite(loss) for loss in record.losses],
        "step_seconds": _step_seconds(center),
        "step_times": times,
        "steps_per_second": None if not seconds else 1 / seconds,
        "samples_per_second": None if not seconds or not samples else samples / seconds,
        **_peak(ranks),
        "memory": sample.get("memory"),
        "memory_absent": None if sample.get("memory") else _no_sample(record.steps, sample),
        "energy_joules": end.get("energy_joules"),
        "energy_absent": None
        if end.get("energy_joules") is not None
        else end.get("energy_absent", "no end was recorded"),
        "matmul_share": share,
        "matmul_share_absent": None if share else _no_sample(record.steps, sample),
        "logged": {name: [list(pair) for pair in pairs] for name, pairs in record.logged.items()},
        "loss_scale": _loss_scales(record.steps),
        "first_nonfinite": _first_nonfinite(record.nonfinite),
        "warnings": [*record.warnings, *_ran_otherwise(outcome, share)],
        "own_amp": record.own_amp,
        "device": record.takeover.get("device"),
        "framework": record.takeover.get("framework"),
        "log": log,
        "exit_code": outcome.exit_code,
        "command": list(command),
        "takeover_seconds": record.takeover.get("seconds"),
        "seconds": outcome.seconds,
    }


def warmup_of(steps: int) -> int:
    """How many steps at the start are left out: :data:`WARMUP`, or less where the run is short; 2 at least."""
    return max(2, min(WARMUP, steps // 4))


def _measured(outcome: Outcome) -> list[float]:
    steps = outcome.record.steps[warmup_of(len(outcome.record.steps)) :]
    return [s["seconds"] for s in steps if s.get("seconds") is not None and not s.get("sampled")]


def _step_seconds(center: Any) -> dict[str, float | None] | None:
    if isinstance(center, Absent):
        return None
    return {"median": center.median, "low": center.low, "high": center.high}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _matmul_share(flops: dict[str, int] | None) -> dict[str, float] | None:
    total = sum((flops or {}).values())
    return {name: count / total for name, count in (flops or {}).items()} if total else None


def _no_sample(steps: list[Any], sample: dict[str, Any]) -> str:
    if "absent" in sample:
        return str(sample["absent"])
    if sample:
        return "the sampled step made no matrix product"
    return "measured in the second step, which was not reached" if len(steps) < 2 else "no step was sampled"


def _peak(ranks: list[Any]) -> dict[str, Any]:
    """Peak memory: of one process, or the sum over the ranks (and the largest beside it)."""
    peaks = [record.end.get("peak_memory_bytes") for record in ranks]
    if any(peak is None for peak in peaks):
        reason = next((r.end["peak_memory_absent"] for r in ranks if "peak_memory_absent" in r.end), None)
        return {
            "peak_memory_bytes": None,
            "peak_memory_absent": reason or "the process ended without telling",
        }
    how = ranks[0].end.get("peak_memory_how")
    more = {} if len(peaks) == 1 else {"peak_memory_largest_rank_bytes": max(peaks), "ranks": len(peaks)}
    return {"peak_memory_bytes": sum(peaks), "peak_memory_absent": None, "peak_memory_how": how, **more}


def _loss_scales(steps: list[dict[str, Any]]) -> list[list[float]]:
    """[step, scale] where the scale changed."""
    changes: list[list[float]] = []
    for index, step in enumerate(steps):
        scale = step.get("loss_scale")
        if scale is not None and (not changes or changes[-1][1] != scale):
            changes.append([index, scale])
    return changes


def _first_nonfinite(event: dict[str, Any]) -> dict[str, Any] | None:
    return {"step": event["step"], "what": event["what"]} if event else None


def _ran_otherwise(outcome: Outcome, share: dict[str, float] | None) -> list[str]:
    """A warning in words where products ran in something else than what was asked."""
    compute = outcome.trial.precision.split(":")[0].removesuffix("-true")
    if not share or compute == "as-is" or share.get(compute, 0.0) >= 0.5:
        return []
    most = max(share, key=lambda name: share[name])
    return [
        f"asked for {compute}, but only {share.get(compute, 0.0):.0%} of the matrix-product FLOPs ran in it "
        f"({share[most]:.0%} in {most})"
    ]


def verdicts(outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a precision, the baseline first: ratios to it with intervals, and words."""
    order = list(dict.fromkeys(outcome.trial.precision for outcome in outcomes))
    baseline = baseline_of(outcomes)
    order.sort(key=lambda precision: precision != baseline)
    groups = {p: [i for i, o in enumerate(outcomes) if o.trial.precision == p] for p in order}
    base = [outcomes[i] for i in groups.get(baseline or "", []) if outcomes[i].status == "ok"]
    return [
        _verdict(p, baseline, [outcomes[i] for i in groups[p]], [rows[i] for i in groups[p]], base)
        for p in order
    ]


def baseline_of(outcomes: Sequence[Outcome]) -> str | None:
    """What the others are compared with: fp32 if it ran to its end, else the first precision that did."""
    ended = [outcome.trial.precision for outcome in outcomes if outcome.status == "ok"]
    return "fp32" if "fp32" in ended else ended[0] if ended else None


def _verdict(
    precision: str,
    baseline: str | None,
    group: list[Outcome],
    rows: list[dict[str, Any]],
    base: list[Outcome],
) -> dict[str, Any]:
    bad = next((o for o in group if o.status != "ok"), None)
    compared = precision != baseline
    trials = len(group)
    if any(o.status == "ok" for o in group):
        # A trial that ended early says something in its own row, and nothing of the precision's medians.
        rows = [row for row, o in zip(rows, group, strict=True) if o.status == "ok"]
        group = [o for o in group if o.status == "ok"]
    return {
        "precision": precision,
        "baseline": baseline,
        "status": "ok" if bad is None else bad.status,
        "reason": "" if bad is None else bad.reason,
        "ran_as": next((row["ran_as"] for row in rows if row["ran_as"]), None),
        "trials": trials,
        "step_time": _step_time(group),
        "speed_ratio": _speed_ratio(base, group) if compared else None,
        "peak_memory": _spread([row["peak_memory_bytes"] for row in rows]),
        "memory_ratio": _memory_ratio(base, group) if compared else None,
        "loss": _loss(base if compared else [], group),
        "steps": min(row["steps"] for row in rows),
        "skipped_steps": max(row["skipped_steps"] for row in rows),
        "warnings": list(dict.fromkeys(w for row in rows for w in row["warnings"])),
    }


def _step_time(group: list[Outcome]) -> dict[str, Any] | None:
    """The median over all trials' steps with its interval, seconds."""
    times = [t for outcome in group for t in _measured(outcome)]
    center = summary(times) if times else None
    if center is None or isinstance(center, Absent):
        return None
    return {"median": center.median, "low": center.low, "high": center.high, "unit": "s"}


def _speed_ratio(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    slow, fast = ([_measured(o) for o in side if _measured(o)] for side in (base, group))
    if not slow or not fast:
        return None
    ratio = ratio_of_medians(slow, fast)
    return _ratio_row(ratio, faster_words(ratio))


def faster_words(ratio: Interval) -> str:
    """``1.90× faster``, ``1.20× slower`` or ``not significant``."""
    if not ratio.excludes_one:
        return "not significant"
    return f"{ratio.value:.2f}× faster" if ratio.value > 1 else f"{1 / ratio.value:.2f}× slower"


def _ratio_row(ratio: Interval, words: str) -> dict[str, Any]:
    return {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "significant": ratio.excludes_one,
        "words": words,
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"median": median(known), "low": min(known), "high": max(known)} if known else None


def _peaks(group: list[Outcome]) -> list[float]:
    rows = [_peak([o.record, *o.ranks])["peak_memory_bytes"] for o in group]
    return [peak for peak in rows if peak]


def _memory_ratio(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    """This precision's peak over the baseline's; the interval is the range over all pairs of trials."""
    ours, theirs = _peaks(group), _peaks(base)
    if not ours or not theirs:
        return None
    ratios = [a / b for a in ours for b in theirs]
    several = len(ours) > 1 and len(theirs) > 1
    ratio = Interval(
        median(ours) / median(theirs), min(ratios) if several else None, max(ratios) if several else None
    )
    words = f"{ratio.value:.2f}× memory" if ratio.excludes_one or not several else "not significant"
    return _ratio_row(ratio, words)


def final_loss(losses: Sequence[float | None]) -> float | None:
    """The mean loss of the last tenth of the steps, at least 5 of them; None if one is not finite."""
    tail = list(losses)[-max(5, round(len(losses) * FINAL_SHARE)) :]
    known = [loss for loss in tail if loss is not None]
    return sum(known) / len(known) if known and all(map(math.isfinite, known)) else None


def _loss(base: list[Outcome], group: list[Outcome]) -> dict[str, Any] | None:
    finals = {(o.trial.seed, o.trial.repeat): final_loss(o.record.losses) for o in group}
    spread = _spread(list(finals.values()))
    if spread is None:
        return None
    theirs = {(o.trial.seed, o.trial.repeat): final_loss(o.record.losses) for o in base}
    # Repeats of a seed are the same training again: only seeds are independent.
    seeds = {seed for seed, _ in finals}
    pairs = [
        (_mean(theirs, seed), _mean(finals, seed))
        for seed in sorted(seeds)
        if _mean(theirs, seed) is not None and _mean(finals, seed) is not None
    ]
    if not pairs:
        return {"final": spread, "difference": None, "words": ""}
    difference = mean_difference(pairs)  # type: ignore[arg-type]
    fall = _fall(base)
    row = {"value": difference.value, "low": difference.low, "high": difference.high, "fall": fall}
    return {"final": spread, "difference": row, "words": difference_words(difference, fall, len(pairs))}


def _mean(finals: dict[tuple[int, int], float | None], seed: int) -> float | None:
    values = [value for (s, _), value in finals.items() if s == seed and value is not None]
    return sum(values) / len(values) if values else None


def _fall(base: list[Outcome]) -> float | None:
    """How far the baseline's loss fell over the run: what a difference is to be measured by."""
    for outcome in base:
        first = next((x for x in outcome.record.losses if x is not None), None)
        last = final_loss(outcome.record.losses)
        if first is not None and last is not None:
            return first - last
    return None


def difference_words(difference: Interval, fall: float | None, seeds: int) -> str:
    """What the difference of the final losses says, and what it cannot say."""
    share = f" ({difference.value / fall:+.1%} of the fall)" if fall and fall > 0 else ""
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4g}{share}; one seed cannot tell it from noise"
    if difference.low <= 0 <= difference.high:
        return f"no difference seen ({seeds} seeds; ±{(difference.high - difference.low) / 2:.2g} could have been)"
    word = "worse" if difference.value > 0 else "better"
    return f"{word} by {abs(difference.value):.3g} ± {(difference.high - difference.low) / 2:.2g} ({seeds} seeds)"


METHOD = [
    ("Step time", "time between the ends of two optimizer steps, on the host's clock (on a GPU: CUDA events); the "
     "median over all steps after the warm-up, with the 95 % interval of the median by order statistics"),
    ("Ratio", "medians of this precision and the baseline, trials interleaved; 95 % interval by a bootstrap over "
     "trials and blocks of consecutive steps; 'not significant' where it includes 1"),
    ("Warm-up", f"the first {WARMUP} steps of a trial (fewer in a short run) are left out; the second is looked at "
     "closely and slower for it"),
    ("Peak memory", "on a GPU the allocator's peak; on a CPU the largest resident set after the warm-up over the one "
     "just after PyTorch was imported; over several ranks the sum"),
    ("Where memory goes", "bytes of weights, gradients and optimizer state, and of the tensors that the graph keeps "
     "for the backward pass, in one step"),
    ("What ran", "FLOPs of the matrix products, convolutions and attention of one step, by the dtype of the operands "
     "that the kernel was given"),
    ("Loss", "the sum of what backward was called on between two steps; the final loss is the mean over the last tenth "
     "of the steps"),
    ("Samples a second", "the first dimension of what the model was first called on after each backward pass"),
    ("Energy", "counters of the hardware (NVML, RAPL) from the end of the warm-up to the end of the program"),
]  # fmt: skip


class Comparison:
    """A comparison read back from its folder: ``data`` is the object that ``--json`` writes."""

    def __init__(self, data: dict[str, Any], folder: Path) -> None:
        self.data = data
        self.folder = folder

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One row a trial."""
        return list(self.data["trials"])

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """One row a precision."""
        return list(self.data["verdicts"])

    @property
    def recommendation(self) -> dict[str, Any]:
        """Which precision to use, the reasons, and the lines that make it permanent."""
        return dict(self.data["recommendation"])

    def __repr__(self) -> str:
        return f"<halfstep comparison of {' '.join(self.data['program']['command'])}: {self.recommendation['text']}>"


def load(folder: str | Path) -> Comparison:
    """Read the comparison that ``halfstep compare --out FOLDER`` wrote.

    Raises:
        UsageError: no comparison there, or of another schema.
    """
    path = Path(folder) / "comparison.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"No comparison in {str(folder)!r} ({error.strerror}); give a folder that `halfstep compare --out` wrote."
        ) from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{str(path)!r} is not a comparison ({error.msg}); run `halfstep compare` again."
        ) from None
    if data.get("schema") != SCHEMA:
        raise UsageError(
            f"{str(path)!r} has schema {data.get('schema')!r}; this version of halfstep reads {SCHEMA!r}."
        )
    return Comparison(data, path.parent)
