"""A comparison as a report draws it: every part of a row present, or absent with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfstep import codec
from halfstep.comparison import model
from halfstep.comparison.model import DIFFERENCES, NonFinite, PrecisionRow, Ratio, Spread, StepTime, TrialRow
from halfstep.report.parts import STATUS_WORDS, Absent, Comparison, Figure, Row, Trial
from halfstep.report.words.quality import judged, verdict_words

_NOT_RECORDED = "not recorded"
_EMULATED = "an emulated run reports no speed, memory or energy"
_NO_ADVICE = "No precision is recommended: the comparison gives no advice."


def read(raw: Mapping[str, Any]) -> Comparison:
    """Read the object of `halfstep compare --json`; parts that are missing or of another type are absent."""
    found = codec.read(model.Comparison, raw)
    advice = found.recommendation
    trials = tuple(_trial(i, trial) for i, trial in enumerate(found.trials))
    idle, why = (found.environment.get(key) for key in ("idle_watts", "idle_watts_absent"))
    return Comparison(
        command=found.program.command,
        module=found.program.module,
        launch=found.program.launch,
        directory=found.program.cwd,
        environment=found.environment,
        options=found.options,
        rows=tuple(_row(i, row, trials) for i, row in enumerate(found.verdicts)),
        trials=trials,
        missing=found.missing,
        advised=advice.precision or "",
        decided=advice.decided,
        headline=advice.headline or advice.text or _NO_ADVICE,
        because=(advice.because or "") if advice.headline else "",
        advice=advice.text or _NO_ADVICE,
        reasons=advice.reasons,
        framework=advice.adopt.framework if advice.adopt else "",
        code=advice.adopt.code if advice.adopt else "",
        idle=_amount(codec.finite(idle), str(why or ""), _NOT_RECORDED),
        fit=found.fit_batch,
        method=tuple((method.figure, method.how) for method in found.method),
    )


def _row(index: int, row: PrecisionRow, trials: Sequence[Trial]) -> Row:
    name, baseline = row.precision or "unnamed", row.baseline or ""
    own = [trial for trial in trials if trial.precision == name]
    why = _EMULATED if any(trial.emulated for trial in own) else _why(row.status, row.reason)
    against = "this is the baseline" if name == baseline else why
    loss = row.loss or model.FigureRow()
    over = loss.over_run or model.RunDifference()
    energy_why = next((t.joules_per_step.reason for t in own if isinstance(t.joules_per_step, Absent)), why)
    memory_why = next((t.peak_memory.reason for t in own if isinstance(t.peak_memory, Absent)), why)
    time_why = (row.step_time_absent if why == _NOT_RECORDED else "") or why
    return Row(
        index=index,
        precision=name,
        baseline=baseline,
        status=row.status or _NOT_RECORDED,
        reason=row.reason,
        ran_as=row.ran_as or "",
        stored=row.held,
        trials=row.trials or len(own),
        step_time=_figure(row.step_time, time_why),
        speed=_figure(row.speed_ratio, against if name == baseline else time_why),
        peak_memory=_figure(row.peak_memory, memory_why),
        memory_ratio=_figure(row.memory_ratio, against if name == baseline else memory_why),
        energy=_figure(row.energy, energy_why),
        energy_ratio=_figure(row.energy_ratio, against if name == baseline else energy_why),
        final_loss=_figure(loss.final, why),
        loss_words="" if name == baseline else _quality(row, loss),
        over_run=over.parts,
        margin=over.difference.margin if over.difference else None,
        no_faster=row.why_no_faster,
        no_smaller=row.why_memory,
        steps=row.steps,
        skipped=row.skipped_steps,
        warnings=row.warnings,
    )


def _why(status: str, reason: str) -> str:
    """Why a figure of a row may be missing, in the words nearest to the cause."""
    return reason or STATUS_WORDS.get(status, status) if status not in ("", "ok") else _NOT_RECORDED


def _quality(row: PrecisionRow, loss: model.FigureRow) -> str:
    """What the comparison says of its quality, other figures included."""
    if row.quality.kind == "not_known" and row.status != "ok":
        return ""
    if loss.kind is None or row.quality.kind not in _OF_FIGURES:
        return row.quality.words or loss.words
    return verdict_words(judged(row), of_loss=False)


#: verdicts that are made of those on the loss and on logged figures
_OF_FIGURES = ("one_seed", "no_difference_seen", "equivalent", *DIFFERENCES)


def _trial(index: int, row: TrialRow) -> Trial:
    why = _EMULATED if row.emulated else _why(row.status, row.reason)
    warmup, times = row.warmup_steps or 0, row.step_times
    # Else the record has left the warm-up out already.
    all_steps = len(times) + warmup > (row.steps or 0)
    no_energy = row.energy_absent or why
    return Trial(
        index=index,
        precision=row.precision or "unnamed",
        ran_as=row.ran_as or "",
        emulated=row.emulated,
        seed=row.seed,
        repeat=row.repeat,
        status=row.status or _NOT_RECORDED,
        reason=row.reason,
        steps=row.steps,
        skipped=row.skipped_steps,
        losses=row.losses,
        step_time=_figure(row.step_seconds, why),
        step_times=times[warmup:] if all_steps else times,
        samples_per_second=row.samples_per_second,
        peak_memory=_amount(row.peak_memory_bytes, row.peak_memory_absent, why),
        memory=_parts(row.memory, row.memory_absent, why),
        workspace=Absent(row.workspace_absent) if row.workspace_absent else None,
        parts_absent={part: Absent(why) for part, why in row.memory_parts_absent.items()},
        energy=_amount(row.energy_joules, row.energy_absent, why),
        joules_per_step=_amount(row.joules_per_step, row.joules_per_step_absent, no_energy),
        joules_per_sample=_amount(row.joules_per_sample, row.joules_per_sample_absent, no_energy),
        time=_parts(row.time_shares, row.time_shares_absent, why),
        shares=_parts(row.matmul_share, row.matmul_share_absent, why),
        stored=row.held,
        logged={name: _known(points) for name, points in row.logged.items()},
        loss_scale=row.loss_scale,
        first_nonfinite="" if row.first_nonfinite is None else _nonfinite(row.first_nonfinite),
        warnings=row.warnings,
        log=row.log,
        exit_code=row.exit_code,
        command=row.command,
        takeover=row.takeover_seconds,
    )


def _figure(found: Ratio | Spread | StepTime | None, why: str) -> Figure | Absent:
    if found is None:
        return Absent(why)
    if isinstance(found, Ratio):
        return Figure(found.value, found.low, found.high, found.significant)
    return Figure(found.median, found.low, found.high)


def _amount(value: float | None, absent: str | None, why: str) -> float | Absent:
    return Absent(absent or why) if value is None else float(value)


def _parts(parts: Mapping[str, float] | None, absent: str | None, why: str) -> Mapping[str, float] | Absent:
    return {name: value for name, value in (parts or {}).items() if value >= 0} or Absent(absent or why)


def _known(points: Sequence[tuple[float, float | None]]) -> tuple[tuple[float, float], ...]:
    return tuple((step, value) for step, value in points if value is not None)


def _nonfinite(found: NonFinite) -> str:
    said = f"{found.what or 'a value'} not finite" + ("" if found.step is None else f" at step {found.step}")
    return f"{said}, began {found.words}" if found.words else said
