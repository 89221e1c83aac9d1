"""Reads a comparison for reports: its values, a reason for each absent one, and sentences about the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from halfstep import codec
from halfstep.comparison.model.comparison import Comparison, Program
from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.quality import DIFFERENCES, FigureRow
from halfstep.comparison.model.trials import NonFinite, TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.rows import enough_steps
from halfstep.comparison.statistics.intervals import FEWEST_STEPS
from halfstep.comparison.statistics.sequential import LOOKS
from halfstep.passed_on import Keywords
from halfstep.processes import join_words
from halfstep.program.launching import start_of_command
from halfstep.report import units
from halfstep.report.words.budget import end_words, more_time, standing_words, steps_words
from halfstep.report.words.quality import judged, verdict_words
from halfstep.words.absent import EMULATED
from halfstep.words.plural import count

NOT_RECORDED = "not recorded"
_NO_ADVICE = "No precision is recommended: the comparison gives no advice."
#: figures of a trial for which a field says why they are absent
_WITH_REASON = ("peak_memory", "memory", "energy", "time_shares", "matmul_share")
#: a trial's figures by part, where a negative one is damage
_BY_PART = ("memory", "time_shares", "matmul_share")


def read(raw: Mapping[str, Any]) -> Comparison:
    """Read the object of `halfstep compare --json`; parts that are missing or of another type are absent.

    Every absent figure has a reason in the field with ``_absent`` behind its name. Missing precisions and statuses are
    ``unnamed`` and ``not recorded``.
    """
    found = codec.read(Comparison, raw)
    advice, trials = found.recommendation, tuple(map(_trial, found.trials))
    text = advice.text or _NO_ADVICE
    headline, because = (advice.headline, advice.because) if advice.headline else (text, "")
    return replace(
        found,
        trials=trials,
        verdicts=tuple(_row(row, trials) for row in found.verdicts),
        recommendation=replace(
            advice, precision=advice.precision or "", text=text, headline=headline, because=because
        ),
    )


def _row(row: PrecisionRow, trials: Sequence[TrialRow]) -> PrecisionRow:
    row = replace(row, precision=row.precision or "unnamed", status=row.status or NOT_RECORDED)
    own = [trial for trial in trials if trial.precision == row.precision]
    row = replace(row, emulated=row.emulated or any(trial.emulated for trial in own))
    why = why_absent(row)
    return replace(
        row,
        trials=row.trials or len(own),
        ran_as=row.ran_as or "",
        baseline=row.baseline or "",
        step_time_absent=(row.step_time_absent if row.ended_well and not row.emulated else "") or why,
        peak_memory_absent=next((t.peak_memory_absent for t in own if t.peak_memory_bytes is None), why),
        energy_absent=next((t.joules_per_step_absent for t in own if t.joules_per_step is None), why),
    )


def _trial(row: TrialRow) -> TrialRow:
    row = replace(row, precision=row.precision or "unnamed", status=row.status or NOT_RECORDED)
    why, warmup, times = why_absent(row), row.warmup_steps or 0, row.step_times
    no_energy = row.energy_absent or why
    changes: Keywords = {f"{name}_absent": getattr(row, f"{name}_absent") or why for name in _WITH_REASON}
    for name in _BY_PART:
        changes[name] = {part: x for part, x in (getattr(row, name) or {}).items() if x >= 0} or None
    return replace(
        row,
        **changes,
        step_seconds_absent=why,
        # In other cases the warm-up is left out already.
        step_times=times[warmup:] if len(times) + warmup > (row.steps or 0) else times,
        joules_per_step_absent=row.joules_per_step_absent or no_energy,
        joules_per_sample_absent=row.joules_per_sample_absent or no_energy,
        logged={name: tuple(p for p in points if p[1] is not None) for name, points in row.logged.items()},
    )


def why_absent(row: PrecisionRow | TrialRow) -> str:
    """Why a figure of a row may be absent, as exactly as is known."""
    if row.emulated:
        return EMULATED
    return NOT_RECORDED if row.status in ("ok", "dropped") else row.reason or units.status(row.status)


def no_interval(row: PrecisionRow, figure: Spread | Ratio) -> str:
    """Why a figure of this row has no interval: one trial; or, for a final value, one seed.

    A step time has an interval in one trial, too; with few steps, neither it nor a ratio of speeds has one.
    """
    least = enough_steps(FEWEST_STEPS)
    few = f"fewer than {least} steps" if row.steps is not None and row.steps < least else ""
    if figure is row.step_time:
        why = few
    elif row.trials == 1:
        why = "one trial"
    elif figure is row.final:
        why = "one seed"
    elif isinstance(figure, Ratio) and figure.disturbed:
        why = "other work disturbed the trials"
    elif isinstance(figure, Ratio) and figure.significant is None and figure.runs:  # with --budget
        why = f"{'one trial' if 1 in figure.runs else 'two trials'}; the first look needs {LOOKS[0]}"
    else:
        why = few if figure is row.speed_ratio else ""
    return f"no interval: {why}" if why else "no interval is recorded"


def loss_words(row: PrecisionRow) -> str:
    """The verdict on a precision's quality, logged figures included."""
    loss = row.loss or FigureRow()
    if row.is_baseline or (row.quality.kind == "not_known" and not row.ended_well):
        return ""
    if loss.kind is None or row.quality.kind not in _OF_FIGURES:
        return row.quality.words or loss.words
    return verdict_words(judged(row), of_loss=False)


#: verdicts on a precision that are made from those on its figures
_OF_FIGURES = ("one_seed", "no_difference_seen", "equivalent", *DIFFERENCES)


def nonfinite_words(found: NonFinite) -> str:
    """The first value that was not finite: ``loss not finite at step 3, began in blocks.3.attn``."""
    said = f"{found.what or 'a value'} not finite" + ("" if found.step is None else f" at step {found.step}")
    return f"{said}, began {found.words}" if found.words else said


def unfinished(missing: Sequence[str]) -> str:
    """A sentence about the trials that were not run; empty if all were."""
    if not missing:
        return ""
    lacking, more = ", ".join(missing[:3]), ", …" * (len(missing) > 3)
    return f"Unfinished: {count(len(missing), 'trial')} still to be run ({lacking}{more})."


def budget_words(comparison: Comparison) -> list[str]:
    """Sentences for a comparison with a budget: why it ended, what is open, for how many steps its verdicts hold."""
    budget, prefer = comparison.budget, comparison.recommendation.prefer
    if budget is None:
        return []
    steps = min((row.steps for row in comparison.verdicts if row.ended_well and row.steps), default=None)
    held = [] if steps is None else [steps_words(steps, comparison.options.get("steps") is not None)]
    still = [] if budget.not_run else [w for s in budget.standings if (w := standing_words(s, prefer))]
    return [end_words(budget), *still, *held]


def offers_budget(comparison: Comparison) -> bool:
    """Whether more time would help: the advice is open, and more trials can decide it."""
    if comparison.budget is not None:
        lacks = bool(comparison.budget.not_run) or any(s.open for s in comparison.budget.standings)
        return comparison.budget.end != "certain" and lacks
    on_cluster = bool(comparison.options.get("on"))
    return (
        not on_cluster and not comparison.recommendation.decided and comparison.recommendation.rule in _OPEN
    )


#: rules of advice that ask for more trials
_OPEN = (
    "undecided", "gain_cannot_be_told", "best", "keep_own_amp", "bf16_for_its_range", "fp16_where_bf16_is_not_native",
    "accuracy_first",
)  # fmt: skip


def budget_to_give(comparison: Comparison) -> str:
    """How much time to give: one and a half times what is needed, if that is known; else 20 minutes."""
    seconds = None if comparison.budget is None else more_time(comparison.budget)
    return "20m" if seconds is None else f"{max(1, math.ceil(seconds * 1.5 / 60))}m"


def command_line(program: Program) -> str:
    """The program as it was given, after python's own name."""
    return join_words(["python", *_command(program)])


def run_command(comparison: Comparison) -> str:
    """The command that runs the program in the advised precision; empty without advice."""
    program, advised = comparison.program, comparison.recommendation.precision
    if not advised or not program.command:
        return ""
    begin = start_of_command(program.launch) if program.launch else ["halfstep"]
    return join_words([*begin, "run", "--precision", advised, *_command(program)])


def _command(program: Program) -> list[str]:
    named = program.module and program.command[:1] != ("-m",)
    return [*(["-m"] if named else []), *program.command]
