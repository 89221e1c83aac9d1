"""Trials side by side: one row per precision, the baseline first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.continued import went_on
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import Quality
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.same_runs import same_cause
from halfstep.comparison.statistics.block_ratios import (
    JudgedTrial,
    energy_of_blocks,
    memory_of_blocks,
    speed_of_blocks,
)
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
        rows: the trials' rows, in the same order.
        tolerance: margins that the user gave.
        levels: the significance levels of repeated looks; None: there is one look.
    """
    order = list(dict.fromkeys(outcome.trial.precision for outcome in outcomes))
    baseline = baseline_of(outcomes)
    order.sort(key=lambda precision: precision != baseline)
    trials = list(map(JudgedTrial, range(len(rows)), outcomes, rows))
    groups = {p: [t for t in trials if t.outcome.trial.precision == p] for p in order}
    if levels is not None:
        groups = {p: _ended(group) for p, group in groups.items()}
    ended = {p: [t.outcome for t in group] for p, group in groups.items()}
    quality = qualities(baseline, ended, tolerance or Tolerance(), levels)
    base = _Side(_well(groups.get(baseline or "", [])))
    found = []
    for p, group in groups.items():
        # A trial that ended early is left out of the precision's medians.
        own = _Side(_well(group) or group)
        row = _of_trials(p, baseline, ended[p], own)
        if p != baseline:
            row = _beside(_with_ratios(row, own, base, levels), own, base)
        row = replace(why(row, own.numbered, base.numbered), **vars(quality[p]))
        found.append(_without_verdict(row, own.rows, max(each.steps or 0 for each in rows)))
    return found


def _ended(group: list[JudgedTrial]) -> list[JudgedTrial]:
    """Without interrupted trials, unless all were: the verdicts seen before the interruption hold."""
    return [t for t in group if t.outcome.status != "interrupted"] or group


def _well(group: list[JudgedTrial]) -> list[JudgedTrial]:
    """Those that ended well."""
    return [t for t in group if t.outcome.status == "ok"]


@dataclass(frozen=True)
class _Side:
    """Trials of one precision."""

    trials: list[JudgedTrial]

    @property
    def rows(self) -> list[TrialRow]:
        """Their rows."""
        return [t.row for t in self.trials]

    @property
    def numbered(self) -> list[tuple[int, TrialRow]]:
        """Their rows with their places."""
        return [(t.place, t.row) for t in self.trials]

    @property
    def quiet(self) -> _Side:
        """Those that nothing disturbed."""
        return _Side([t for t in self.trials if not t.row.disturbed])

    @property
    def timed(self) -> list[Outcome]:
        """Those whose step times count: the undisturbed ones, or all if all were disturbed."""
        return [t.outcome for t in self.quiet.trials or self.trials]


def baseline_of(outcomes: Sequence[Outcome]) -> str | None:
    """The precision that the others are compared with: fp32 if it ran to its end, else the first one that did."""
    ended = [outcome.trial.precision for outcome in outcomes if outcome.status == "ok"]
    return "fp32" if "fp32" in ended else ended[0] if ended else None


def _of_trials(precision: str, baseline: str | None, group: Sequence[Outcome], own: _Side) -> PrecisionRow:
    """The row without ratios: from all trials of the precision (``group``), and those that ended well (``own``)."""
    bad = next((o for o in group if o.status != "ok"), None)
    rows = own.rows
    counted = next((row for row in rows if row.ran_as), rows[0])
    seconds, joules = step_time(own.timed), energy(own.quiet.rows)
    peak = spread([row.peak_memory_bytes for row in rows])
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
        ran_as=counted.ran_as,
        ran=counted.ran,
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
    """The ratio of the undisturbed trials; if a side has none, that of all trials, without an interval."""
    if not own.quiet.trials or not base.quiet.trials:
        return _disturbed_speed_ratio(own, base)
    ratio = speed_ratio(base.timed, own.timed)
    if ratio is None or ratio.low is not None:
        return ratio
    fewer = any(len(side.timed) < len(side.trials) for side in (own, base))
    return replace(ratio, disturbed=True) if fewer else ratio


def _disturbed_speed_ratio(own: _Side, base: _Side) -> Ratio | None:
    """The ratio without an interval, for a side whose trials were all disturbed by other work."""
    ratio = speed_ratio(base.timed, own.timed)
    if ratio is None:
        return None
    return replace(ratio, low=None, high=None, significant=False, disturbed=True)


def _beside(row: PrecisionRow, own: _Side, base: _Side) -> PrecisionRow:
    """With what the comparison with the baseline shows beside ratios: see the fields below."""
    if not base.rows or row.status != "ok":
        return row
    return replace(
        row,
        stands_still=stands_still(own.rows, base.rows),
        work_ratio=work_ratio(own.rows, base.rows),
        same_as_baseline=same_cause(own.rows, base.rows, row.ran, base.rows[0].ran),
        speed_bound=speed_bound(base.rows),
    )


def _without_verdict(row: PrecisionRow, trials: Sequence[TrialRow], most: int) -> PrecisionRow:
    """Without a verdict, if its trials continued from an earlier trial's files."""
    found = went_on(trials, most)
    if found is None:
        return row
    return replace(row, went_on=found, quality=Quality("not_known"), why_no_faster=(), why_memory=())
