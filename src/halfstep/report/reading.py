"""A comparison object as values that a report can draw: every part present, or absent with its reason.

The object comes from a file that anyone may have written and from trials that may have died early: nothing is
taken on trust. Text loses its control characters, figures that are not finite numbers are absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from halfstep.report import stored
from halfstep.report.parts import (
    STATUS_WORDS,
    Absent,
    Comparison,
    Figure,
    Fit,
    FitRow,
    FitTrial,
    Reason,
    Row,
    Stretch,
    Trial,
)
from halfstep.report.plain import clean, finite, integer, numbers, pairs, sequence, table, tables, text, texts


def read(comparison: Mapping[str, Any]) -> Comparison:
    """Read the object of `halfstep compare --json`; parts that are missing or of another type are absent."""
    program, recommendation = table(comparison, "program"), table(comparison, "recommendation")
    adopt = table(recommendation, "adopt")
    trials = tuple(_trial(i, raw) for i, raw in enumerate(tables(comparison, "trials")))
    return Comparison(
        command=texts(program, "command"),
        module=program.get("module") is True,
        directory=text(program, "cwd"),
        environment=table(comparison, "environment"),
        options=table(comparison, "options"),
        rows=tuple(_row(i, raw, trials) for i, raw in enumerate(tables(comparison, "verdicts"))),
        trials=trials,
        missing=texts(comparison, "missing"),
        advised=text(recommendation, "precision"),
        decided=recommendation.get("decided") is not False,
        advice=text(recommendation, "text") or "No precision is recommended: the comparison gives no advice.",
        reasons=tuple((text(r, "text"), text(r, "evidence")) for r in tables(recommendation, "reasons")),
        framework=text(adopt, "framework"),
        code=clean(adopt.get("code"), lines=True),
        idle=_amount(table(comparison, "environment"), "idle_watts", "idle_watts_absent", "not recorded"),
        fit=_fit(table(comparison, "fit_batch")),
        method=tuple((text(m, "figure"), text(m, "how")) for m in tables(comparison, "method")),
    )


_NOT_RECORDED = "not recorded"


def _row(index: int, raw: Mapping[str, Any], trials: Sequence[Trial]) -> Row:
    name, baseline = text(raw, "precision") or "unnamed", text(raw, "baseline")
    own = [trial for trial in trials if trial.precision == name]
    why = _why(raw, own)
    against = "this is the baseline" if name == baseline else why
    loss = table(raw, "loss")
    energy_why = next((t.joules_per_step.reason for t in own if isinstance(t.joules_per_step, Absent)), why)
    memory_why = next((t.peak_memory.reason for t in own if isinstance(t.peak_memory, Absent)), why)
    time_why = (text(raw, "step_time_absent") if why == _NOT_RECORDED else "") or why
    return Row(
        index=index,
        precision=name,
        baseline=baseline,
        status=text(raw, "status") or "not recorded",
        reason=text(raw, "reason"),
        ran_as=text(raw, "ran_as"),
        stored=stored.read(raw),
        trials=integer(raw, "trials") or len(own),
        step_time=_figure(raw.get("step_time"), time_why),
        speed=_figure(raw.get("speed_ratio"), against if name == baseline else time_why),
        peak_memory=_figure(raw.get("peak_memory"), memory_why),
        memory_ratio=_figure(raw.get("memory_ratio"), against if name == baseline else memory_why),
        energy=_figure(raw.get("energy"), energy_why),
        energy_ratio=_figure(raw.get("energy_ratio"), against if name == baseline else energy_why),
        final_loss=_figure(loss.get("final"), why),
        loss_difference=_figure(loss.get("difference"), against),
        loss_words=_quality(raw, loss, name == baseline),
        over_run=_stretches(table(loss, "over_run")),
        margin=finite(table(table(loss, "over_run"), "difference").get("margin")),
        no_faster=_reasons(raw, "why_no_faster"),
        no_smaller=_reasons(raw, "why_memory"),
        steps=integer(raw, "steps"),
        skipped=integer(raw, "skipped_steps"),
        warnings=texts(raw, "warnings"),
    )


def _why(raw: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Why a figure of this row may be missing, in the words nearest to the cause."""
    if any(trial.emulated for trial in trials):
        return "an emulated run reports no speed, memory or energy"
    status = text(raw, "status")
    if status and status != "ok":
        return text(raw, "reason") or STATUS_WORDS.get(status, status)
    return _NOT_RECORDED


def _quality(raw: Mapping[str, Any], loss: Mapping[str, Any], is_baseline: bool) -> str:
    """What the comparison says of its quality, other figures included; of a baseline nothing."""
    quality = table(raw, "quality")
    if text(quality, "kind") == "not_known" and text(raw, "status") != "ok":
        return ""
    words = text(quality, "words").removeprefix("loss: ")
    return "" if is_baseline else words or text(loss, "words")


def _stretches(raw: Mapping[str, Any]) -> tuple[Stretch, ...]:
    """The parts of the run; a part without all its figures is left out."""
    found = ([finite(part.get(f.name)) for f in fields(Stretch)] for part in tables(raw, "parts"))
    return tuple(
        Stretch(*known) for part in found if len(known := [x for x in part if x is not None]) == len(part)
    )


def _reasons(raw: Mapping[str, Any], key: str) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            text(entry, "text"),
            finite(entry.get("share")),
            text(entry, "evidence"),
            finite(entry.get("share_low")),
            finite(entry.get("share_high")),
        )
        for entry in tables(raw, key)
    )


def _no_energy(raw: Mapping[str, Any], why: str) -> str:
    return text(raw, "energy_absent") or why


def _fit(raw: Mapping[str, Any]) -> Fit | None:
    if not raw:
        return None
    rows = tuple(
        FitRow(
            precision=text(row, "precision") or "unnamed",
            largest=integer(row, "largest"),
            fails_at=integer(row, "fails_at"),
            ratio=finite(row.get("ratio")),
            reason=text(row, "reason"),
            trials=tuple(
                FitTrial(size, text(t, "status"), text(t, "reason"), finite(t.get("peak_memory_bytes")))
                for t in tables(row, "trials")
                if (size := integer(t, "size")) is not None
            ),
        )
        for row in tables(raw, "rows")
    )
    return Fit(
        text(raw, "name") or "batch", text(raw, "argument"), finite(raw.get("memory_limit_bytes")), rows
    )


def _trial(index: int, raw: Mapping[str, Any]) -> Trial:
    why = (
        _why(raw, ())
        if raw.get("emulated") is not True
        else "an emulated run reports no speed, memory or energy"
    )
    warmup, times = integer(raw, "warmup_steps") or 0, numbers(raw, "step_times")
    all_steps = len(times) + warmup > (
        integer(raw, "steps") or 0
    )  # else the record has left warm-up out already
    return Trial(
        index=index,
        precision=text(raw, "precision") or "unnamed",
        ran_as=text(raw, "ran_as"),
        emulated=raw.get("emulated") is True,
        seed=integer(raw, "seed"),
        repeat=integer(raw, "repeat"),
        status=text(raw, "status") or "not recorded",
        reason=text(raw, "reason"),
        steps=integer(raw, "steps"),
        skipped=integer(raw, "skipped_steps"),
        losses=tuple(finite(x) for x in sequence(raw.get("losses"))),
        step_time=_figure(raw.get("step_seconds"), why),
        step_times=times[warmup:] if all_steps else times,
        samples_per_second=finite(raw.get("samples_per_second")),
        peak_memory=_amount(raw, "peak_memory_bytes", "peak_memory_absent", why),
        memory=_parts(raw, "memory", "memory_absent", why),
        workspace=Absent(reason) if (reason := text(raw, "workspace_absent")) else None,
        parts_absent={
            clean(part): Absent(clean(why))
            for part, why in table(raw, "memory_parts_absent").items()
            if isinstance(why, str)
        },
        energy=_amount(raw, "energy_joules", "energy_absent", why),
        joules_per_step=_amount(raw, "joules_per_step", "joules_per_step_absent", _no_energy(raw, why)),
        joules_per_sample=_amount(raw, "joules_per_sample", "joules_per_sample_absent", _no_energy(raw, why)),
        time=_parts(raw, "time_shares", "time_shares_absent", why),
        shares=_parts(raw, "matmul_share", "matmul_share_absent", why),
        stored=stored.read(raw),
        logged={clean(name): pairs(points) for name, points in table(raw, "logged").items()},
        loss_scale=pairs(raw.get("loss_scale")),
        first_nonfinite=_nonfinite(table(raw, "first_nonfinite")),
        warnings=texts(raw, "warnings"),
        log=text(raw, "log"),
        exit_code=integer(raw, "exit_code"),
        command=texts(raw, "command"),
        takeover=finite(raw.get("takeover_seconds")),
    )


def _figure(raw: object, why: str) -> Figure | Absent:
    fields = raw if isinstance(raw, Mapping) else {}
    value = finite(fields.get("value", fields.get("median")))
    if value is None:
        return Absent(why)
    significant = fields.get("significant")
    known = significant if isinstance(significant, bool) else None
    return Figure(value, finite(fields.get("low")), finite(fields.get("high")), known, text(fields, "words"))


def _amount(raw: Mapping[str, Any], key: str, absent: str, why: str) -> float | Absent:
    value = finite(raw.get(key))
    return Absent(text(raw, absent) or why) if value is None else value


def _parts(raw: Mapping[str, Any], key: str, absent: str, why: str) -> Mapping[str, float] | Absent:
    parts = {
        clean(name): value
        for name, x in table(raw, key).items()
        if (value := finite(x)) is not None and value >= 0
    }
    return parts or Absent(text(raw, absent) or why)


def _nonfinite(raw: Mapping[str, Any]) -> str:
    step, what = integer(raw, "step"), text(raw, "what")
    if not raw:
        return ""
    said = f"{what or 'a value'} not finite" + ("" if step is None else f" at step {step}")
    words = text(raw, "words")
    return f"{said}, began {words}" if words else said
