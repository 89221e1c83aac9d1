"""The parts of a comparison that a report draws: every one a value, or absent with its reason."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from halfstep.comparison.model import Explanation, Fit, Reason, RunPart
from halfstep.launching import start_of_command
from halfstep.report import units
from halfstep.stored import Stored

STATUS_WORDS = {
    "ok": "ok",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "failed": "failed",
    "timed_out": "timed out",
    "unsupported": "unsupported",
    "interrupted": "interrupted",
    "damaged": "damaged",
}
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "casts", "workspace")
TIME_PARTS = ("products", "other", "casts", "optimizer", "data", "host")


@dataclass(frozen=True)
class Absent:
    """A figure that could not be measured, and why."""

    reason: str


@dataclass(frozen=True)
class Figure:
    """A measured value with the ends of its interval (None: no interval)."""

    value: float
    low: float | None = None
    high: float | None = None
    significant: bool | None = None


@dataclass(frozen=True)
class Row:
    """One precision of the comparison: times in s, sizes in bytes, joules per step, ratios to the baseline."""

    index: int
    precision: str
    baseline: str
    status: str
    reason: str
    ran_as: str
    stored: Stored
    trials: int
    step_time: Figure | Absent
    speed: Figure | Absent
    peak_memory: Figure | Absent
    memory_ratio: Figure | Absent
    energy: Figure | Absent
    energy_ratio: Figure | Absent
    final_loss: Figure | Absent
    loss_words: str
    over_run: tuple[RunPart, ...]
    margin: float | None
    no_faster: tuple[Explanation, ...]
    no_smaller: tuple[Explanation, ...]
    steps: int | None
    skipped: int | None
    warnings: tuple[str, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether the other precisions are measured against this one."""
        return self.precision == self.baseline

    def no_interval(self, part: Figure | Absent) -> str:
        """Why a figure of this row has no interval: one trial; and of final values one seed, one training repeated."""
        one = "one trial" if self.trials == 1 else "one seed" if part is self.final_loss else ""
        return f"no interval: {one}" if one else "no interval is recorded"

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
    workspace: Absent | None
    parts_absent: Mapping[str, Absent]
    energy: float | Absent
    joules_per_step: float | Absent
    joules_per_sample: float | Absent
    time: Mapping[str, float] | Absent
    shares: Mapping[str, float] | Absent
    stored: Stored
    logged: Mapping[str, tuple[tuple[float, float], ...]]
    loss_scale: tuple[tuple[float, float], ...]
    first_nonfinite: str
    warnings: tuple[str, ...]
    log: str
    exit_code: int | None
    command: tuple[str, ...]
    takeover: float | None

    @property
    def samples(self) -> Figure | None:
        """Samples per second, with the interval of the step time."""
        rate, time = self.samples_per_second, self.step_time
        if rate is None or isinstance(time, Absent):
            return None
        low, high = (rate * time.value / end if end else None for end in (time.high, time.low))
        return Figure(rate, low, high)

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
    launch: str
    directory: str
    environment: Mapping[str, object]
    options: Mapping[str, object]
    rows: tuple[Row, ...]
    trials: tuple[Trial, ...]
    missing: tuple[str, ...]
    advised: str
    decided: bool
    headline: str
    because: str
    advice: str
    reasons: tuple[Reason, ...]
    framework: str
    code: str
    idle: float | Absent
    fit: Fit | None
    method: tuple[tuple[str, str], ...]

    @property
    def unfinished(self) -> str:
        """What a comparison that was not run to its end lacks, in a sentence; empty where it lacks nothing."""
        if not self.missing:
            return ""
        lacking, more = ", ".join(self.missing[:3]), ", …" * (len(self.missing) > 3)
        return f"Unfinished: {units.count(len(self.missing), 'trial')} still to be run ({lacking}{more})."

    @property
    def command_line(self) -> str:
        """The program as it was given, after python's own name."""
        return shlex.join(["python", *self._program])

    @property
    def run_command(self) -> str:
        """The command that runs the program in the advised precision; empty without advice."""
        if not self.advised or not self.command:
            return ""
        begin = start_of_command(self.launch) if self.launch else ["halfstep"]
        return shlex.join([*begin, "run", "--precision", self.advised, *self._program])

    @property
    def _program(self) -> list[str]:
        named = self.module and self.command[:1] != ("-m",)
        return [*(["-m"] if named else []), *self.command]

    def of(self, precision: str) -> list[Trial]:
        """The trials of one precision."""
        return [trial for trial in self.trials if trial.precision == precision]

    @property
    def precisions(self) -> tuple[str, ...]:
        """Every precision named by a verdict or a trial, in order, once."""
        return tuple(
            dict.fromkeys([row.precision for row in self.rows] + [trial.precision for trial in self.trials])
        )
