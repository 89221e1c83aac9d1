"""Trials side by side: verdicts, the baseline first, and how each figure was come by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfstep.quality import qualities
from halfstep.ratios import memory_ratio, speed_ratio, spread, step_time
from halfstep.rows import WARMUP
from halfstep.tolerance import Tolerance
from halfstep.trials import Outcome

SCHEMA = "halfstep/comparison/1"


def verdicts(
    outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]], tolerance: Tolerance | None = None
) -> list[dict[str, Any]]:
    """One row a precision, the baseline first: ratios to it with intervals, quality against noise, and words."""
    order = list(dict.fromkeys(outcome.trial.precision for outcome in outcomes))
    baseline = baseline_of(outcomes)
    order.sort(key=lambda precision: precision != baseline)
    groups = {p: [i for i, o in enumerate(outcomes) if o.trial.precision == p] for p in order}
    quality = qualities(
        baseline, {p: [outcomes[i] for i in group] for p, group in groups.items()}, tolerance or Tolerance()
    )
    base = [outcomes[i] for i in groups.get(baseline or "", []) if outcomes[i].status == "ok"]
    return [
        _verdict(p, baseline, [outcomes[i] for i in groups[p]], [rows[i] for i in groups[p]], base)
        | quality[p]
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
        "emulated": any(row["emulated"] for row in rows),
        "trials": trials,
        "step_time": step_time(group),
        "speed_ratio": speed_ratio(base, group) if compared else None,
        "peak_memory": spread([row["peak_memory_bytes"] for row in rows]),
        "memory_ratio": memory_ratio(base, group) if compared else None,
        "steps": min(row["steps"] for row in rows),
        "skipped_steps": max(row["skipped_steps"] for row in rows),
        "warnings": list(dict.fromkeys(w for row in rows for w in row["warnings"])),
    }


METHOD = [
    ("Step time", "time between the ends of two optimizer steps, on the host's clock (on a GPU: CUDA events); the "
     "median over all steps after the warm-up, with the 95 % interval of the median by order statistics"),
    ("Ratio", "medians of this precision and the baseline, trials interleaved; 95 % interval by Student's t of the "
     "runs' medians, never narrower than a moving-block bootstrap of the steps within them; of one run on a side by "
     "that bootstrap alone: how runs differ is not in it. 'not significant' where it includes 1"),
    ("Drift", "the seasonal Kendall test (Hirsch, Slack & Smith 1982), exact: of the trials' medians in the order they "
     "ran, precisions as strata, and of six parts of each trial; the rise is Theil and Sen's median slope"),
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
    ("Quality", "precision and seed crossed: each seed's final value less the baseline's on the same seed; worse or "
     "better where the paired t test, Holm-adjusted over the precisions, is below 5 %; intervals are 95 %; "
     "what would have been seen is at 80 % power; from 6 seeds the exact sign-flip test and Hartigan's interval stand "
     "beside it. One seed has no noise to compare with"),
    ("Equivalent", "two one-sided paired t tests at 5 % each; the margin is --tolerance, or the baseline's standard "
     "deviation from seed to seed at the lower end of its one-sided 95 % interval, as few seeds estimate it loosely"),
    ("Over the run", "the mean of the difference over all steps (the area between the curves), by the same tests; and "
     "the run in ten parts with a band that holds for all at once: the largest t of sign flips (Westfall-Young), below "
     "6 seeds Bonferroni's. Everything but the first figure's final value is one more family for Holm"),
    ("Logged figures", "as the loss; a final value is the mean of the last tenth of what was logged; lower is better "
     "for names of losses and errors, higher for accuracies and scores; other names differ, or do not"),
    ("Samples a second", "the first dimension of what the model was first called on after each backward pass"),
    ("Energy", "counters of the hardware (NVML, RAPL) from the end of the warm-up to the end of the program"),
]  # fmt: skip
