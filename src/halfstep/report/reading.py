"""A comparison object as values that a report can draw: every part present, or absent with its reason.

The object comes from a file that anyone may have written and from trials that may have died early: nothing is
taken on trust. Text loses its control characters, figures that are not finite numbers are absent.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfstep.report.plain import clean, finite, integer, numbers, pairs, sequence, table, tables, text, texts

STATUS_WORDS = {
    "ok": "ok",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "timed_out": "timed out",
    "unsupported": "unsupported",
    "interrupted": "interrupted",
}
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Absent:
    """A figure that could not be measured, and why."""

    reason: str


@dataclass(frozen=True)
class Figure:
    """A measured value with the ends of its interval (None: no interval) and what the comparison says of it."""

    value: float
    low: float | None = None
    high: float | None = None
    significant: bool | None = None
    words: str = ""


@dataclass(frozen=True)
class Row:
    """One precision of the comparison: times in s, sizes in bytes, ratios to the baseline."""

    index: int
    precision: str
    baseline: str
    status: str
    reason: str
    ran_as: str
    trials: int
    step_time: Figure | Absent
    speed: Figure | Absent
    peak_memory: Figure | Absent
    memory_ratio: Figure | Absent
    final_loss: Figure | Absent
    loss_difference: Figure | Absent
    loss_words: str
    steps: int | None
    skipped: int | None
    warnings: tuple[str, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether the other precisions are measured against this one."""
        return self.precision == self.baseline

    @property
    def measured(self) -> bool:
        """Whether the row has any figure at all."""
        return any(isinstance(part, Figure) for part in (self.step_time, self.peak_memory, self.final_loss))


@dataclass(frozen=True)
class Trial:
    """One run of the program: times in s, sizes in bytes, energy in J."""

    index: int
    precision: str
    ran_as: str
    emulated: bool
    seed: int | None
    repeat: int | None
    status: str
    reason: str
    steps: int | None
    skipped: int | None
    losses: tuple[float | None, ...]
    step_time: Figure | Absent
    step_times: tuple[float, ...]
    samples_per_second: float | None
    peak_memory: float | Absent
    memory: Mapping[str, float] | Absent
    energy: float | Absent
    shares: Mapping[str, float] | Absent
    logged: Mapping[str, tuple[tuple[float, float], ...]]
    loss_scale: tuple[tuple[float, float], ...]
    first_nonfinite: str
    warnings: tuple[str, ...]
    log: str
    exit_code: int | None
    command: tuple[str, ...]
    takeover: float | None

    @property
    def label(self) -> str:
        """The trial's name: `bf16, seed 0, repeat 1`."""
        parts = [
            self.precision,
            *(f"{name} {n}" for name, n in (("seed", self.seed), ("repeat", self.repeat)) if n is not None),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Comparison:
    """Everything that a report draws."""

    command: tuple[str, ...]
    module: bool
    directory: str
    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    rows: tuple[Row, ...]
    trials: tuple[Trial, ...]
    advised: str
    advice: str
    reasons: tuple[tuple[str, str], ...]
    framework: str
    code: str
    method: tuple[tuple[str, str], ...]

    @property
    def command_line(self) -> str:
        """The program as it was given, after python's own name."""
        return shlex.join(["python", *self._program])

    @property
    def run_command(self) -> str:
        """The command that runs the program in the advised precision; empty without advice."""
        if not self.advised or not self.command:
            return ""
        return shlex.join(["halfstep", "run", "--precision", self.advised, *self._program])

    @property
    def _program(self) -> list[str]:
        return [*(["-m"] if self.module else []), *self.command]

    def of(self, precision: str) -> list[Trial]:
        """The trials of one precision."""
        return [trial for trial in self.trials if trial.precision == precision]

    @property
    def precisions(self) -> tuple[str, ...]:
        """Every precision named by a verdict or a trial, in order, once."""
        return tuple(
            dict.fromkeys([row.precision for row in self.rows] + [trial.precision for trial in self.trials])
        )


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
        advised=text(recommendation, "precision"),
        advice=text(recommendation, "text") or "No precision is recommended: the comparison gives no advice.",
        reasons=tuple((text(r, "text"), text(r, "evidence")) for r in tables(recommendation, "reasons")),
        framework=text(adopt, "framework"),
        code=clean(adopt.get("code"), lines=True),
        method=tuple((text(m, "figure"), text(m, "how")) for m in tables(comparison, "method")),
    )


def _row(index: int, raw: Mapping[str, Any], trials: Sequence[Trial]) -> Row:
    name, baseline = text(raw, "precision") or "unnamed", text(raw, "baseline")
    own = [trial for trial in trials if trial.precision == name]
    why = _why(raw, own)
    against = "this is the baseline" if name == baseline else why
    loss = table(raw, "loss")
    memory_why = next((t.peak_memory.reason for t in own if isinstance(t.peak_memory, Absent)), why)
    return Row(
        index=index,
        precision=name,
        baseline=baseline,
        status=text(raw, "status") or "not recorded",
        reason=text(raw, "reason"),
        ran_as=text(raw, "ran_as"),
        trials=integer(raw, "trials") or len(own),
        step_time=_figure(raw.get("step_time"), why),
        speed=_figure(raw.get("speed_ratio"), against),
        peak_memory=_figure(raw.get("peak_memory"), memory_why),
        memory_ratio=_figure(raw.get("memory_ratio"), against if name == baseline else memory_why),
        final_loss=_figure(loss.get("final"), why),
        loss_difference=_figure(loss.get("difference"), against),
        loss_words=text(loss, "words"),
        steps=integer(raw, "steps"),
        skipped=integer(raw, "skipped_steps"),
        warnings=texts(raw, "warnings"),
    )


def _why(raw: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Why a figure of this row may be missing, in the words nearest to the cause."""
    if any(trial.emulated for trial in trials):
        return "emulated: an emulated run reports no speed, memory or energy"
    status = text(raw, "status")
    if status and status != "ok":
        return text(raw, "reason") or STATUS_WORDS.get(status, status)
    return "not recorded"


def _trial(index: int, raw: Mapping[str, Any]) -> Trial:
    why = _why(raw, ()) if raw.get("emulated") is not True else "emulated: an emulated run reports no speed"
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
        energy=_amount(raw, "energy_joules", "energy_absent", why),
        shares=_parts(raw, "matmul_share", "matmul_share_absent", why),
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
    return f"{what or 'a value'} not finite" + ("" if step is None else f" at step {step}") if raw else ""
