"""Trials side by side: one row per precision, the baseline first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.alike import same_cause
from halfstep.comparison.going_on import went_on
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import Quality
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.statistics.block_ratios import energy_of_blocks, memory_of_blocks, speed_of_blocks
from halfstep.comparison.statistics.quality import qualities
from halfstep.comparison.statistics.ratios import (
    energy,
    energy_ratio,
    memory_ratio,
    speed_bound,
    speed_ratio,
    spread,
    step_time,
)
from halfstep.comparison.statistics.sequential import Levels
from halfstep.comparison.statistics.tolerance import Tolerance
from halfstep.comparison.stillness import stands_still
from halfstep.comparison.trial_cost import work_ratio
from halfstep.comparison.why import why
from halfstep.trials import Outcome
from halfstep.words import absent


def verdicts(
    outcomes: Sequence[Outcome],
    rows: Sequence[TrialRow],
    tolerance: Tolerance | None = None,
    levels: Levels | None = None,
) -> list[PrecisionRow]:
    """One row per precision, the baseline first: ratios to it with intervals, and quality against noise.

    Args:
        outcomes: how the trials ended.
        rows: the same as the comparison has them.
        tolerance: margins that the user gave.
        levels: what each figure may spend where it is looked at again and again; None: one look.
    """
    order = list(dict.fromkeys(outcome.trial.precision for outcome in outcomes))
    baseline = baseline_of(outcomes)
    order.sort(key=lambda precision: precision != baseline)
    groups = {p: [(i, o) for i, o in enumerate(outcomes) if o.trial.precision == p] for p in order}
    if levels is not None:
        groups = {p: _ended(group) for p, group in groups.items()}
    quality = qualities(
        baseline, {p: [o for _, o in group] for p, group in groups.items()}, tolerance or Tolerance(), levels
    )
    base = _Side.of([(i, o) for i, o in groups.get(baseline or "", []) if o.status == "ok"], rows)
    found = []
    for p, group in groups.items():
        # A trial that ended early has a row of its own; it says nothing of the precision's medians.
        own = _Side.of([(i, o) for i, o in group if o.status == "ok"] or group, rows)
        row = _of_trials(p, baseline, [o for _, o in group], own)
        if p != baseline:
            row = _beside(_with_ratios(row, own, base, levels), own, base)
        row = replace(why(row, own.numbered, base.numbered), **vars(quality[p]))
        found.append(_spoiled(row, own.rows, max(each.steps or 0 for each in rows)))
    return found


def _ended(group: list[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
    """Without a trial that was interrupted, where another was not: what was seen before holds."""
    return [(i, o) for i, o in group if o.status != "interrupted"] or group


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
    def trials(self) -> list[tuple[Outcome, TrialRow]]:
        """Each trial with its row."""
        return list(zip(self.outcomes, self.rows, strict=True))

    @property
    def quiet(self) -> _Side:
        """Those that nothing disturbed."""
        kept = [i for i, row in enumerate(self.rows) if not row.disturbed]
        return _Side(
            [self.places[i] for i in kept], [self.outcomes[i] for i in kept], [self.rows[i] for i in kept]
        )

    @property
    def timed(self) -> list[Outcome]:
        """Those whose step times count: where other work disturbed all of them, all."""
        return self.quiet.outcomes or self.outcomes


def baseline_of(outcomes: Sequence[Outcome]) -> str | None:
    """What the others are compared with: fp32 if it ran to its end, else the first precision that did."""
    ended = [outcome.trial.precision for outcome in outcomes if outcome.status == "ok"]
    return "fp32" if "fp32" in ended else ended[0] if ended else None


def _of_trials(precision: str, baseline: str | None, group: Sequence[Outcome], own: _Side) -> PrecisionRow:
    """The row by all its trials, and by those that ended well; its ratios to the baseline come later."""
    bad = next((o for o in group if o.status != "ok"), None)
    rows = own.rows
    told = next((row for row in rows if row.ran_as), rows[0])
    seconds, peak, joules = (
        step_time(own.timed),
        spread([row.peak_memory_bytes for row in rows]),
        energy(own.quiet.rows),
    )
    no_step = next((row.step_seconds_absent for row in rows if row.step_seconds_absent), None)
    no_peak = next((row.peak_memory_absent for row in rows if row.peak_memory_absent), None)
    no_joules = next((row.joules_per_step_absent for row in rows if row.joules_per_step_absent), None)
    if not own.quiet.rows and any(row.joules_per_step is not None for row in rows):
        no_joules = absent.DISTURBED
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
        warnings=tuple(dict.fromkeys(w for row in rows for w in row.warnings)),
        disturbed=sum(bool(row.disturbed) for row in rows),
        step_time=seconds,
        step_time_absent=None if seconds else no_step or absent.NO_TIMED_STEP,
        peak_memory=peak,
        peak_memory_absent=None if peak else no_peak or absent.NO_TRIAL,
        energy=joules,
        energy_absent=None if joules else no_joules or absent.NO_TRIAL,
    )


def _with_ratios(row: PrecisionRow, own: _Side, base: _Side, levels: Levels | None) -> PrecisionRow:
    """With the ratios of its figures to the baseline's."""
    ours, theirs = own.quiet, base.quiet
    if levels is not None:
        return replace(
            row,
            speed_ratio=speed_of_blocks(ours.trials, theirs.trials, levels)
            or _disturbed_speed_ratio(own, base),
            memory_ratio=memory_of_blocks(own.trials, base.trials, levels),
            energy_ratio=energy_of_blocks(ours.trials, theirs.trials, levels),
        )
    return replace(
        row,
        speed_ratio=_quiet_speed_ratio(own, base),
        memory_ratio=memory_ratio(base.rows, own.rows),
        energy_ratio=energy_ratio(theirs.rows, ours.rows),
    )


def _quiet_speed_ratio(own: _Side, base: _Side) -> Ratio | None:
    """The ratio of the trials that nothing disturbed; of all of them, without an interval, where a side has none."""
    if not own.quiet.places or not base.quiet.places:
        return _disturbed_speed_ratio(own, base)
    ratio = speed_ratio(base.timed, own.timed)
    if ratio is None or ratio.low is not None:
        return ratio
    fewer = any(len(side.timed) < len(side.outcomes) for side in (own, base))
    return replace(ratio, disturbed=True) if fewer else ratio


def _disturbed_speed_ratio(own: _Side, base: _Side) -> Ratio | None:
    """The ratio where other work disturbed all trials of a side, without an interval."""
    ratio = speed_ratio(base.timed, own.timed)
    if ratio is None:
        return None
    return replace(ratio, low=None, high=None, significant=False, disturbed=True)


def _beside(row: PrecisionRow, own: _Side, base: _Side) -> PrecisionRow:
    """With whether it ran the same as the baseline, and how much faster the hardware's units could make it."""
    if not base.rows or row.status != "ok":
        return row
    return replace(
        row,
        stands_still=stands_still(own.rows, base.rows),
        work_ratio=work_ratio(own.rows, base.rows),
        same_as_baseline=same_cause(own.rows, base.rows, row.ran, base.rows[0].ran),
        speed_bound=speed_bound(base.rows),
    )


def _spoiled(row: PrecisionRow, trials: Sequence[TrialRow], most: int) -> PrecisionRow:
    """Without a verdict, where its trials went on from an earlier one's."""
    found = went_on(trials, most)
    if found is None:
        return row
    return replace(row, went_on=found, quality=Quality("not_known"), why_no_faster=(), why_memory=())
