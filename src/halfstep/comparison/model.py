"""A comparison as values: every object that ``halfstep compare --json`` writes, under the names that it has there.

Times are in seconds, sizes in bytes, energies in joules; None is what was not measured, and the field with ``_absent``
behind its name says why. :mod:`halfstep.codec` writes and reads them. The site's tables of fields are made of the
comments that begin with ``#:``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, ClassVar, Literal

from halfstep.ran import Ran
from halfstep.stored import Stored

SCHEMA = "halfstep/comparison/1"

#: what the advice is to gain
Prefer = Literal["speed", "memory", "energy", "accuracy"]
PREFER: tuple[Prefer, ...] = ("speed", "memory", "energy", "accuracy")

#: which way a figure is better
Direction = Literal["lower", "higher", "unknown"]

#: what paired differences say of a figure, or of a precision
Kind = Literal[
    "baseline", "one_seed", "no_difference_seen", "equivalent", "worse", "better", "different", "diverged",
    "not_known",
]  # fmt: skip

#: the level of every test, and 1 minus that of every interval
ALPHA = 0.05

#: kinds that say that there is a difference
DIFFERENCES: tuple[Kind, ...] = ("worse", "better", "different")

#: why two rows ran the same: the program computes in fp64; it has no products; they are made where no precision
#: reaches; or, where products were not counted, every loss is the same to the last bit
Cause = Literal["fp64", "no_products", "out_of_reach", "identical_losses"]

_UNKNOWN_RAN = Ran(unknown="not recorded")


#: tables whose rows a figure can stand in
Table = Literal["verdicts", "trials", "fit_batch.rows"]


@dataclass(frozen=True)
class EvidenceRef:
    """The place of a figure in the comparison: a table, the index of a row, and the way to the figure from there.

    As text it is ``verdicts[1].speed_ratio`` or ``trials[0].time_shares.products``; the empty text is no figure.
    """

    table: Table | None = None
    row: int = 0
    path: tuple[str | int, ...] = ()

    @property
    def field(self) -> str | int:
        """The row's field that it stands in."""
        return self.path[0] if self.path else ""

    def as_text(self) -> str:
        """As JSON has it."""
        row = "" if self.table is None else f"{self.table}[{self.row}]"
        return row + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path)

    @classmethod
    def from_text(cls, text: str) -> EvidenceRef:
        """The inverse of :meth:`as_text`.

        Raises:
            ValueError: the text is no reference.
        """
        if not text:
            return cls()
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ValueError(text)
        way = _STEP.findall(found[3])
        table: Any = found[1]
        return cls(table, int(found[2]), tuple(int(index) if index else name for name, index in way))

    def resolve(self, comparison: Comparison) -> Any:
        """The figure itself; None where there is no such row or field."""
        rows: dict[Table | None, Any] = {"verdicts": comparison.verdicts, "trials": comparison.trials}
        rows["fit_batch.rows"] = comparison.fit_batch.rows if comparison.fit_batch else ()
        try:
            found = rows[self.table][self.row]
            for part in self.path:
                found = getattr(found, part) if is_dataclass(found) else found[part]  # type: ignore[arg-type]
        except (KeyError, IndexError, AttributeError, TypeError):
            return None
        return found


_REFERENCE = re.compile(r"(verdicts|trials|fit_batch\.rows)\[(\d{1,9})\]((?:\.[\w-]+|\[\d{1,9}\])*)")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


# --- figures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A median with its 95 % interval, or of a few values the lowest and the highest; of one value no ends."""

    OMITTED: ClassVar = ("unit",)
    median: float
    low: float | None = None
    high: float | None = None
    unit: str | None = None

    @property
    def value(self) -> float:
        """The median."""
        return self.median


@dataclass(frozen=True)
class Ratio:
    """A ratio to the baseline with its 95 % interval.

    Attributes:
        significant: whether the interval leaves 1 out.
        words: the same in words.
        runs: how many runs it rests on, the baseline's first.
        disturbed: whether no run of a side was left undisturbed, so that it says nothing.
    """

    OMITTED: ClassVar = ("runs", "disturbed")
    value: float
    low: float | None = None
    high: float | None = None
    significant: bool | None = None
    words: str = ""
    runs: tuple[int, ...] | None = None
    disturbed: bool | None = None


# --- a trial -----------------------------------------------------------------------------------------------


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
    """What kept a trial from being one of its own: other processes, or files of an earlier trial that it read.

    Attributes:
        cores: how many processors there are; ``others_cores`` how many of them other processes took, on average.
        waited_share: the share of the time with work to do in which its threads waited for a processor.
        involuntary_switches_per_second: how often a thread lost its processor although it had work to do.
        files: names of files of an earlier trial that it went on from.
    """

    OMITTED: ClassVar = ("cores", "others_cores", "waited_share", "involuntary_switches_per_second", "files")
    cores: int | None = None
    others_cores: float | None = None
    waited_share: float | None = None
    involuntary_switches_per_second: float | None = None
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
    ran: Ran = _UNKNOWN_RAN  #: the same as data
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
    matmul_flops: Mapping[str, int] | None = None  #: the FLOPs themselves
    matmul_share_absent: str | None = None  #: why there is none
    odd_size_share: float | None = None  #: share of these FLOPs whose sizes do not suit matrix units
    time_shares: Mapping[str, float] | None = None  #: share of the profiled step by kind of work
    time_shares_absent: str | None = None  #: why there is none
    profiled_step: ProfiledStep | None = None  #: the step that was profiled
    #: figures of the program's own by name, each a list of [step, value], `null` where it was not finite
    logged: Mapping[str, tuple[tuple[float, float | None], ...]] = field(default_factory=dict)
    loss_scale: Points = ()  #: [step, scale] where it changed
    first_nonfinite: NonFinite | None = None  #: the first value that was not finite, and where it began
    load: Mapping[str, float | None] | None = None  #: what the processors did meanwhile, in seconds
    load_absent: str | None = None  #: why there is none
    #: what other processes took, and files of another trial that it read; otherwise `null`
    disturbed: Disturbed | None = None
    warnings: tuple[str, ...] = ()  #: sentences
    own_amp: tuple[str, ...] = ()  #: what the program has of mixed precision itself
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
        told = [f"{name} {n}" for name, n in (("seed", self.seed), ("repeat", self.repeat)) if n is not None]
        return ", ".join([self.precision, *told])

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


# --- a precision -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A figure less the baseline's, over the seeds that both ran with.

    Attributes:
        value, low, high: the mean difference with its 95 % interval, by paired t over ``seeds``.
        p, p_holm: two-sided p values of no difference, by paired t; for all precisions at once.
        p_exact, exact_low, exact_high: the same by sign flips, from 6 seeds to 14.
        detectable: the difference that would have been seen with the probability ``power``.
        bound: no farther apart than this, by the 90 % interval of two one-sided tests at 5 %.
        margin: a smaller difference does not matter; ``margin_from`` the ``tolerance``, or the ``seeds``.
        p_equivalence: of a difference beyond the margin.
        significant: ``different``, as JSON has it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    p: float | None = None
    p_holm: float | None = None
    p_exact: float | None = None
    exact_low: float | None = None
    exact_high: float | None = None
    detectable: float | None = None
    power: float | None = None
    bound: float | None = None
    margin: float | None = None
    margin_from: str | None = None
    p_equivalence: float | None = None
    significant: bool | None = None

    @property
    def different(self) -> bool:
        """Whether a difference was seen, all precisions of the comparison taken together."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p <= ALPHA

    @property
    def equivalent(self) -> bool:
        """Whether the difference was shown to lie within the margin."""
        return self.p_equivalence is not None and self.p_equivalence <= ALPHA

    @property
    def half_width(self) -> float:
        """Half of the interval; NaN without one."""
        return math.nan if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class FinalDifference(Difference):
    """The difference of the final values; ``fall``: how far the baseline's loss fell over the run."""

    fall: float | None = None


@dataclass(frozen=True)
class RunPart:
    """One part of the run, first to last step: the mean difference with a band that holds for all parts at once."""

    first: int
    last: int
    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the band leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class RunDifference:
    """The difference over the whole run: its mean over all steps, and the run in parts.

    Attributes:
        apart: first and last step of the parts where the band leaves zero out.
        method: how the band was made.
    """

    difference: Difference | None = None
    kind: Kind | None = None
    words: str = ""
    parts: tuple[RunPart, ...] = ()
    apart: tuple[tuple[int, int], ...] = ()
    method: str | None = None


@dataclass(frozen=True)
class FigureRow:
    """The loss, or a figure that the script logged: its final value, and the difference to the baseline's."""

    final: Spread | None = None
    direction: Direction | None = None
    difference: FinalDifference | None = None
    words: str = ""
    kind: Kind | None = None
    over_run: RunDifference | None = None


@dataclass(frozen=True)
class Diverged:
    """In how many of its trials the loss was not finite from some step on: their seeds, and those steps from 1."""

    trials: int
    of: int
    seeds: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Quality:
    """The verdict on a precision: the first figure's, unless it diverged or another figure is worse."""

    kind: Kind | None = None
    words: str = ""
    seeds: int = 1


@dataclass(frozen=True)
class StandsStill:
    """How far the loss fell, and how far the baseline's."""

    fall: float
    baseline_fall: float


@dataclass(frozen=True)
class WentOn:
    """Files of an earlier trial that its trials went on from, their fewest steps, and the most that any trial made."""

    files: tuple[str, ...]
    steps: int
    of: int


@dataclass(frozen=True)
class Explanation:
    """One entry of why a precision is no faster, or no smaller.

    Attributes:
        share: of the step, or of the peak; None for a fact.
        evidence: the figure that it rests on.
        share_low, share_high: of several trials, the lowest and the highest.
    """

    OMITTED: ClassVar = ("share_low", "share_high")
    text: str = ""
    share: float | None = None
    evidence: EvidenceRef = EvidenceRef()
    share_low: float | None = None
    share_high: float | None = None


@dataclass(frozen=True)
class PrecisionRow:
    """One precision over all its trials, beside the baseline."""

    precision: str = ""  #: with options
    baseline: str | None = None  #: the precision that it is compared with
    status: str = ""  #: of the first trial that did not end well; `ok` where all did
    reason: str = ""  #: one sentence
    ran_as: str | None = None  #: in words, what was measured to have run
    ran: Ran = _UNKNOWN_RAN  #: the same as data
    stored: Mapping[str, Mapping[str, int] | None] | None = None  #: bytes by format, as of a trial
    emulated: bool = False  #: whether it was emulated
    trials: int | None = None  #: how many
    steps: int | None = None  #: the fewest of its trials
    skipped_steps: int | None = None  #: the most of its trials
    warnings: tuple[str, ...] = ()  #: sentences
    disturbed: int = 0  #: how many of its trials other work disturbed
    step_time: Spread | None = None  #: `median`, `low`, `high` in seconds
    step_time_absent: str | None = None  #: why there is none
    peak_memory: Spread | None = None  #: `median`, `low`, `high` in bytes
    peak_memory_absent: str | None = None  #: why there is none
    energy: Spread | None = None  #: joules per step: `median`, `low`, `high`
    energy_absent: str | None = None  #: why there is none
    #: how many times as fast as the baseline: `value`, `low`, `high`, `significant`, `words`
    speed_ratio: Ratio | None = None
    memory_ratio: Ratio | None = None  #: its peak over the baseline's, likewise
    energy_ratio: Ratio | None = None  #: its joules per step over the baseline's, likewise
    same_as_baseline: Cause | None = None  #: why it ran the same as the baseline; `null` where it did not
    #: how far its loss fell and the baseline's, where only the baseline's fell
    stands_still: StandsStill | None = None
    #: how many times the products of the baseline's step its own computes; null where that is about one
    work_ratio: float | None = None
    speed_bound: float | None = None  #: how many times as fast the hardware's units could make it at most
    why_no_faster: tuple[Explanation, ...] = ()  #: `text`, `share` and `evidence` of each reason
    why_memory: tuple[Explanation, ...] = ()  #: likewise
    #: final value, direction, difference to the baseline, verdict, and the same over the whole run
    loss: FigureRow | None = None
    fall: float | None = None  #: how far its loss fell
    #: the same as `loss` for each logged figure
    logged: Mapping[str, FigureRow] = field(default_factory=dict)
    diverged: Diverged | None = None  #: in how many trials, their seeds and steps; `null` where none did
    quality: Quality = Quality()  #: the verdict: `kind`, `words`, `seeds`
    went_on: WentOn | None = None  #: files of an earlier trial that its trials went on from; otherwise `null`

    @property
    def is_baseline(self) -> bool:
        """Whether the other precisions are measured against this one."""
        return self.precision == self.baseline

    @property
    def final(self) -> Spread | None:
        """The final loss."""
        return self.loss.final if self.loss else None

    @property
    def measured(self) -> bool:
        """Whether the row has any figure at all."""
        return any((self.step_time, self.peak_memory, self.final))

    @property
    def held(self) -> Stored:
        """What it stored in which format."""
        return held(self.stored, {})


# --- the whole ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitTrial:
    """One batch that was tried: its size, how the trial ended, and its peaks."""

    size: int
    status: str = ""
    reason: str = ""
    samples: int | None = None
    peak_memory_bytes: int | None = None
    peak_resident_bytes: int | None = None
    seconds: float | None = None
    log: str = ""


@dataclass(frozen=True)
class FitRow:
    """The largest batch that fitted a precision, and the smallest that did not; None where none was found.

    Attributes:
        reason: why there is no answer.
        ratio: the largest over the first precision's.
    """

    precision: str = ""
    largest: int | None = None
    fails_at: int | None = None
    reason: str = ""
    trials: tuple[FitTrial, ...] = ()
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The largest batches: what is counted, the program's option for it, the limit (None: the GPU's own memory)."""

    name: str = "batch"
    argument: str = ""
    steps: int | None = None
    memory_limit_bytes: int | None = None
    rows: tuple[FitRow, ...]


@dataclass(frozen=True)
class Reason:
    """A reason of the recommendation, and the figure that it rests on."""

    text: str = ""
    evidence: EvidenceRef = EvidenceRef()


@dataclass(frozen=True)
class Adopt:
    """The lines that make a precision permanent in a script of this framework."""

    framework: str = ""
    code: str = field(default="", metadata={"lines": True})


@dataclass(frozen=True)
class Recommendation:
    """Which precision to use, by which rule of advice."""

    OMITTED: ClassVar = ("headline", "because")
    decided: bool = True  #: whether the data carry it
    precision: str | None = None  #: the one to use; `null` where none is named
    text: str = ""  #: the advice in words: `headline` and `because`, with a colon between them
    #: `text` and `evidence`, a place in this object such as `verdicts[1].speed_ratio`
    reasons: tuple[Reason, ...] = ()
    prefer: Prefer = "speed"  #: what was to be gained: `speed`, `memory`, `energy` or `accuracy`
    rule: str = ""  #: the name of the rule that decided
    adopt: Adopt | None = None  #: `framework` and `code`: the lines that make it permanent
    headline: str | None = None  #: what to do, in a few words
    because: str | None = None  #: why, in a sentence


@dataclass(frozen=True)
class Program:
    """The program that was run: its command after python's own name, the folder, the launcher."""

    command: tuple[str, ...] = ()
    module: bool = False
    cwd: str = ""
    launch: str = ""


@dataclass(frozen=True)
class Trend:
    """How far step times rose over a stretch (0.1: by 10 %), the p value of no trend, whether it is worth a word."""

    rise: float
    p: float
    significant: bool = False


@dataclass(frozen=True)
class Drift:
    """Whether the machine changed its pace: from trial to trial, and within the trials."""

    across_trials: Trend | None = None
    within_trials: Trend | None = None
    words: str = ""


@dataclass(frozen=True)
class Method:
    """How a figure was come by."""

    figure: str = ""
    how: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared; ``environment`` is the machine's description, ``options`` the command's."""

    OMITTED: ClassVar = ("fit_batch",)
    schema: str = SCHEMA  #: `halfstep/comparison/1`
    program: Program = Program()  #: `command` (after python's own name), `module`, `cwd`, `launch`
    #: the machine: versions, CPU, cores, frameworks, devices and what each can do
    environment: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)  #: the options of the command
    trials: tuple[TrialRow, ...] = ()
    missing: tuple[str, ...] = ()  #: names of trials that were asked for and did not run
    verdicts: tuple[PrecisionRow, ...] = ()
    speed_drift: Drift = Drift()  #: whether the machine changed its pace, `across_trials` and `within_trials`
    recommendation: Recommendation = Recommendation()
    method: tuple[Method, ...] = ()  #: for each figure how it was come by
    fit_batch: Fit | None = None  #: with `--fit-batch`: the largest batches; otherwise there is no such field

    @property
    def baseline(self) -> str:
        """The precision that the others are measured against; empty where there is none."""
        return next((row.baseline for row in self.verdicts if row.baseline), "")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Every precision named by a verdict or a trial, in order, once."""
        return tuple(dict.fromkeys(row.precision for rows in (self.verdicts, self.trials) for row in rows))

    def of(self, precision: str) -> list[TrialRow]:
        """The trials of one precision."""
        return [trial for trial in self.trials if trial.precision == precision]
