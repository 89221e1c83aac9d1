"""One run of the program: an entry of ``trials``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from halfstep.comparison.model.figures import Spread
from halfstep.record.ran import Ran
from halfstep.record.stored import Stored

NOT_RECORDED = Ran(unknown="not recorded")


@dataclass(frozen=True)
class ProfiledStep:
    """The step that was profiled: its length, where it ran, how many operations (on a GPU: kernels) it had."""

    seconds: float | None = None
    device: str = ""
    operations: int | None = None
    median_operation_seconds: float | None = None


@dataclass(frozen=True)
class NonFinite:
    """The first value that was not finite: the step, what it was, and where it began."""

    OMITTED: ClassVar = ("step", "what", "module", "operation", "direction", "words")
    step: int | None = None
    what: str | None = None
    module: str | None = None
    operation: str | None = None
    direction: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class Disturbed:
    """What disturbed a trial: other processes, or files of an earlier trial that it read."""

    OMITTED: ClassVar = ("cores", "others_cores", "waited_share", "involuntary_switches_per_second", "files")
    #: how many processors there are; ``others_cores`` how many of them other processes took, on average
    cores: int | None = None
    others_cores: float | None = None
    #: the share of the time with work to do in which its threads waited for a processor
    waited_share: float | None = None
    #: how often a thread lost its processor although it had work to do
    involuntary_switches_per_second: float | None = None
    #: names of files of an earlier trial that it continued from; paths, if it ran in a copy of the folder
    files: tuple[str, ...] | None = None


#: [step, value]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TrialRow:
    """One run of the program."""

    OMITTED: ClassVar = ("peak_memory_how", "peak_memory_largest_rank_bytes", "ranks", "step_seconds_absent")
    precision: str = ""  #: as it was asked for, with options
    recipe: str = ""  #: its own name, with options
    ran_as: str | None = None  #: in words, what was measured to have run
    ran: Ran = NOT_RECORDED  #: the same as data
    emulated: bool = False  #: whether it was emulated; then it has no speed, memory or energy
    seed: int | None = None  #: by how much the program's seeds were shifted
    repeat: int | None = None  #: which repeat it is, from 0
    #: `ok`, `diverged`, `out_of_memory`, `failed`, `timed_out`, `unsupported`, `interrupted`, `damaged` or `dropped`
    status: str = ""
    reason: str = ""  #: one sentence; empty where the status is `ok`
    steps: int | None = None  #: optimizer steps made
    skipped_steps: int | None = None  #: of these, how many were skipped
    warmup_steps: int | None = None  #: steps at the start that the step time leaves out
    losses: tuple[float | None, ...] = ()  #: one per step; `null` where there was none, or it was not finite
    step_seconds: Spread | None = None  #: `median`, `low`, `high`
    step_times: tuple[float, ...] = ()  #: seconds of every step but the first, which has no step before it
    steps_per_second: float | None = None  #: 1 over the median step
    samples_per_second: float | None = None  #: samples of a step over its median time
    peak_memory_bytes: int | None = None  #: the peak
    peak_memory_absent: str | None = None  #: why there is none
    peak_memory_how: str | None = None  #: which meter
    #: of several ranks, the largest; `peak_memory_bytes` is their sum
    peak_memory_largest_rank_bytes: int | None = None
    ranks: int | None = None  #: how many processes
    #: bytes by part: `weights`, `gradients`, `optimizer`, `activations`, and others where they are known
    memory: Mapping[str, int] | None = None
    memory_absent: str | None = None  #: why there is none
    workspace_absent: str | None = None  #: why the rest of the peak is not known
    memory_parts_absent: Mapping[str, str] = field(default_factory=dict)  #: for a part, why it is missing
    #: for `weights`, `gradients` and `optimizer` the bytes by format, or `remainder16`
    stored: Mapping[str, Mapping[str, int] | None] | None = None
    stored_absent: Mapping[str, str] = field(default_factory=dict)  #: for each of them, why it is missing
    energy_joules: float | None = None  #: of the window that was metered
    energy_absent: str | None = None  #: why there is none
    energy_how: str | None = None  #: which counters
    joules_per_step: float | None = None  #: energy per step
    joules_per_step_absent: str | None = None  #: why there is none
    joules_per_sample: float | None = None  #: energy per sample
    joules_per_sample_absent: str | None = None  #: why there is none
    #: share of matrix-product FLOPs by the operands' format (`fp32`, `tf32`, `bf16`, `fp16`, …)
    matmul_share: Mapping[str, float] | None = None
    matmul_flops: Mapping[str, float] | None = None  #: the FLOPs themselves
    matmul_share_absent: str | None = None  #: why there is none
    odd_size_share: float | None = None  #: share of these FLOPs whose sizes do not suit matrix units
    time_shares: Mapping[str, float] | None = None  #: share of the profiled step by kind of work
    time_shares_absent: str | None = None  #: why there is none
    profiled_step: ProfiledStep | None = None  #: the step that was profiled
    #: figures of the program's own by name, each a list of [step, value], `null` where it was not finite
    logged: Mapping[str, tuple[tuple[float, float | None], ...]] = field(default_factory=dict)
    loss_scale: Points = ()  #: [step, scale] where it changed
    first_nonfinite: NonFinite | None = None  #: the first value that was not finite, and where it began
    load: Mapping[str, float | None] | None = None  #: what the processors did during the trial, in seconds
    load_absent: str | None = None  #: why there is none
    #: what other processes took, and files of another trial that it read; otherwise `null`
    disturbed: Disturbed | None = None
    warnings: tuple[str, ...] = ()  #: sentences
    own_amp: tuple[str, ...] = ()  #: the program's own uses of mixed precision
    device: str | None = None  #: `cpu` or the accelerator's type
    framework: str | None = None  #: what drives the training
    log: str = ""  #: the file with what the program printed, in the folder
    exit_code: int | None = None  #: of the process
    command: tuple[str, ...] = ()  #: the command line of the process
    takeover_seconds: float | None = None  #: how long it took to take the framework over
    seconds: float | None = None  #: how long the process ran
    step_seconds_absent: str | None = None  #: why there is no step time

    @property
    def label(self) -> str:
        """The trial's name: ``bf16, seed 0, repeat 1``."""
        numbers = [
            f"{name} {n}" for name, n in (("seed", self.seed), ("repeat", self.repeat)) if n is not None
        ]
        return ", ".join([self.precision, *numbers])

    @property
    def samples(self) -> Spread | None:
        """Samples per second, with the interval of the step time."""
        rate, time = self.samples_per_second, self.step_seconds
        if rate is None or time is None:
            return None
        low, high = (rate * time.median / end if end else None for end in (time.high, time.low))
        return Spread(rate, low, high)

    @property
    def held(self) -> Stored:
        """What it stored in which format, with the reasons for what was not measured."""
        return held(self.stored, self.stored_absent)

    @property
    def on_gpu(self) -> bool:
        """Whether its profiled step ran on a GPU."""
        return self.profiled_step is not None and self.profiled_step.device == "cuda"


def held(stored: Mapping[str, Mapping[str, int] | None] | None, absent: Mapping[str, str]) -> Stored:
    """What is stored in which format, from its two fields."""
    return Stored.of({**(stored or {}), "absent": absent})
