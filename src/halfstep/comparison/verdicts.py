"""Trials side by side: verdicts, the baseline first, and how each figure was come by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.alike import same_cause
from halfstep.comparison.disturbance import warning
from halfstep.comparison.going_on import went_on
from halfstep.comparison.going_on import words as going_on_words
from halfstep.comparison.model import PrecisionRow, Quality, Ratio, TrialRow
from halfstep.comparison.quality import qualities
from halfstep.comparison.ratios import (
    FASTEST_UNITS,
    energy,
    energy_ratio,
    memory_ratio,
    speed_bound,
    speed_ratio,
    spread,
    step_time,
)
from halfstep.comparison.rows import WARMUP
from halfstep.comparison.stillness import stands_still, still_words
from halfstep.comparison.tolerance import Tolerance
from halfstep.comparison.why import why
from halfstep.trials import Outcome


def verdicts(
    outcomes: Sequence[Outcome], rows: Sequence[TrialRow], tolerance: Tolerance | None = None
) -> list[PrecisionRow]:
    """One row per precision, the baseline first: ratios to it with intervals, quality against noise, and words."""
    order = list(dict.fromkeys(outcome.trial.precision for outcome in outcomes))
    baseline = baseline_of(outcomes)
    order.sort(key=lambda precision: precision != baseline)
    groups = {p: [(i, o) for i, o in enumerate(outcomes) if o.trial.precision == p] for p in order}
    quality = qualities(
        baseline, {p: [o for _, o in group] for p, group in groups.items()}, tolerance or Tolerance()
    )
    base = _Side.of([(i, o) for i, o in groups.get(baseline or "", []) if o.status == "ok"], rows)
    found = []
    for p, group in groups.items():
        # A trial that ended early says something in its own row, and nothing of the precision's medians.
        own = _Side.of([(i, o) for i, o in group if o.status == "ok"] or group, rows)
        row = _of_trials(p, baseline, [o for _, o in group], own)
        if p != baseline:
            row = _beside(_with_ratios(row, own, base), own, base)
        judged = quality[p]
        row = replace(
            why(row, own.numbered, base.numbered),
            loss=judged.loss,
            fall=judged.fall,
            logged=judged.logged,
            diverged=judged.diverged,
            quality=judged.quality,
        )
        found.append(_spoiled(row, own.rows, max(each.steps or 0 for each in rows)))
    return found


@dataclass(frozen=True)
class _Side:
    """Trials of one precision: their places in the comparison, how they ended, and their rows."""

    places: list[int]
    outcomes: list[Outcome]
    rows: list[TrialRow]

    @classmethod
    def of(cls, group: Sequence[tuple[int, Outcome]], rows: Sequence[TrialRow]) -> _Side:
        return cls([i for i, _ in group], [o for _, o in group], [rows[i] for i, _ in group])

    @property
    def numbered(self) -> list[tuple[int, TrialRow]]:
        """The rows with their places."""
        return list(zip(self.places, self.rows, strict=True))

    @property
    def quiet(self) -> list[Outcome]:
        """Those that nothing disturbed."""
        return [o for o, row in zip(self.outcomes, self.rows, strict=True) if not row.disturbed]


def baseline_of(outcomes: Sequence[Outcome]) -> str | None:
    """What the others are compared with: fp32 if it ran to its end, else the first precision that did."""
    ended = [outcome.trial.precision for outcome in outcomes if outcome.status == "ok"]
    return "fp32" if "fp32" in ended else ended[0] if ended else None


def _of_trials(precision: str, baseline: str | None, group: Sequence[Outcome], own: _Side) -> PrecisionRow:
    """What is said of all its trials, and of those that ended well; the ratios of a baseline are absent."""
    bad = next((o for o in group if o.status != "ok"), None)
    rows = own.rows
    told = next((row for row in rows if row.ran_as), rows[0])
    seconds, peak, joules = (
        step_time(own.outcomes),
        spread([row.peak_memory_bytes for row in rows]),
        energy(rows),
    )
    no_step = next((row.step_seconds_absent for row in rows if row.step_seconds_absent), None)
    no_peak = next((row.peak_memory_absent for row in rows if row.peak_memory_absent), None)
    no_joules = next((row.joules_per_step_absent for row in rows if row.joules_per_step_absent), None)
    return PrecisionRow(
        precision=precision,
        baseline=baseline,
        status="ok" if bad is None else bad.status,
        reason="" if bad is None else bad.reason,
        ran_as=told.ran_as,
        ran=told.ran,
        stored=next((row.stored for row in rows if row.stored), None),
        emulated=any(row.emulated for row in rows),
        trials=len(group),
        steps=min(row.steps or 0 for row in rows),
        skipped_steps=max(row.skipped_steps or 0 for row in rows),
        warnings=(*dict.fromkeys(w for row in rows for w in row.warnings), *warning(rows)),
        disturbed=sum(bool(row.disturbed) for row in rows),
        step_time=seconds,
        step_time_absent=None if seconds else no_step or "no step after the warm-up",
        peak_memory=peak,
        peak_memory_absent=None if peak else no_peak or "no trial told",
        energy=joules,
        energy_absent=None if joules else no_joules or "no trial told",
    )


def _with_ratios(row: PrecisionRow, own: _Side, base: _Side) -> PrecisionRow:
    """With its figures by those of the baseline."""
    return replace(
        row,
        speed_ratio=_quiet_speed_ratio(own, base),
        memory_ratio=memory_ratio(base.rows, own.rows),
        energy_ratio=energy_ratio(base.rows, own.rows),
    )


def _quiet_speed_ratio(own: _Side, base: _Side) -> Ratio | None:
    """The ratio of the trials that nothing disturbed; of all of them, without an interval, where a side has none."""
    if own.quiet and base.quiet:
        return speed_ratio(base.quiet, own.quiet)
    ratio = speed_ratio(base.outcomes, own.outcomes)
    if ratio is None:
        return None
    return replace(ratio, low=None, high=None, significant=False, words="no interval", disturbed=True)


def _beside(row: PrecisionRow, own: _Side, base: _Side) -> PrecisionRow:
    """With whether it ran the same as the baseline, and how much faster the hardware's units could make it."""
    if not base.rows or row.status != "ok":
        return row
    still = stands_still(own.rows, base.rows)
    words = [] if still is None else [still_words(still, base.rows[0].precision, row.steps or 0, row.held)]
    return replace(
        row,
        stands_still=still,
        warnings=(*row.warnings, *words),
        same_as_baseline=same_cause(own.rows, base.rows, row.ran, base.rows[0].ran),
        speed_bound=speed_bound(base.rows),
    )


def _spoiled(row: PrecisionRow, trials: Sequence[TrialRow], most: int) -> PrecisionRow:
    """Without a verdict, where its trials went on from an earlier one's."""
    found = went_on(trials, most)
    if found is None:
        return row
    quality = Quality("not_known", f"{going_on_words(found)}: nothing to compare", 1)
    return replace(row, went_on=found, quality=quality, why_no_faster=(), why_memory=())


METHOD = [
    ("Step time", "time between the ends of two optimizer steps, on the host's clock (on a GPU: CUDA events), after "
     "the warm-up; of one trial the median step with the 95 % interval of the median by order statistics, of several "
     "the geometric mean of their medians, with Student's t of these, never narrower than the steps within them allow"),
    ("Spread", "of step times, ratios and differences the figures beside are 95 % intervals; of peak memory and "
     "joules a step they are the lowest and the highest of the trials, of final values those of the seeds, and of one "
     "nothing"),
    ("Speed ratio", "the baseline's step time over this precision's, trials interleaved; 95 % interval by Student's t "
     "of the runs' medians, never narrower than a moving-block bootstrap of the steps within them. One trial on a side "
     "has no interval: how trials differ is not known. 'not significant' where it includes 1"),
    ("Most a precision can gain", f"products {FASTEST_UNITS} times as fast, as on the fastest units there are, and all "
     "else twice, by the shares of the baseline's profiled step: a larger gain is something else's, and not advised"),
    ("Memory and energy ratios", "geometric means of the trials' peaks and joules a step, this precision's over the "
     "baseline's; 95 % interval by Welch's t of their logarithms, from two trials on either side"),
    ("Disturbed trials", "those whose threads waited for a processor in 10 % of the time in which they had work (by "
     "the kernel's run delay) while other processes took 10 % of the processors; or in 15 %, and more than twice as "
     "often as in the quietest trial. Their step times are left out of the speed ratio; where a side has no others, "
     "the ratio has no interval. With several repeats they are run once more, unless half of all were disturbed"),
    ("Drift", "the seasonal Kendall test (Hirsch, Slack & Smith 1982), exact: of the trials' medians in the order they "
     "ran, precisions as strata, and of six parts of each trial; the rise is Theil and Sen's median slope"),
    ("Warm-up", f"the first {WARMUP} steps of a trial (fewer in a short run) are left out; the second and the third "
     "are looked at closely and slower for it"),
    ("Peak memory", "on a GPU the allocator's peak; on a CPU the largest resident set after the warm-up over the one "
     "just after the framework was imported; over several ranks the sum"),
    ("Where memory goes", "bytes of weights, gradients and optimizer state, and of the tensors that the graph keeps "
     "for the backward pass, in one step; workspace is the allocator's peak less all these"),
    ("What ran", "FLOPs of the matrix products, convolutions and attention of one step, by the dtype of the operands "
     "that the kernel was given"),
    ("What is stored", "bytes by format of the trained weights and of the frozen ones of the modules that were called, "
     "of the gradients at the end of the sampled step, and of the optimizers' state; shared memory counts once, "
     "sharded tensors with the part that lies in each process; over several ranks the sum"),
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
    ("Energy", "counters of the hardware (NVML for all GPUs that the program sees; RAPL for packages and memory) from "
     "the end of the warm-up to the end of the program; joules a step from there to the last reading at the end of a "
     "step, one reading a second, over 5 s or more on a GPU. The whole device is counted, other programs on it too. "
     "Idle watts: the same counters for 6 s before the first trial"),
    ("Where time goes", "PyTorch's profiler in the third step, which is slower for it and left out of the step times: "
     "on a CPU every instant belongs to the innermost operation, on a GPU to the kernel that runs; shares sum to one. "
     "Seconds are these shares of the median step"),
]  # fmt: skip
