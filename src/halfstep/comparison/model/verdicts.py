"""One precision over all its trials, compared with the baseline: an entry of ``verdicts``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from halfstep.comparison.model.figures import Ratio, Spread
from halfstep.comparison.model.quality import Diverged, FigureRow, Quality
from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.trials import NOT_RECORDED, held
from halfstep.record.ran import Ran
from halfstep.record.stored import Stored

#: why two rows ran the same: the program computes in fp64; it has no products; the precision does not apply to its
#: products; or, if products were not counted, every loss is the same to the last bit
Cause = Literal["fp64", "no_products", "out_of_reach", "identical_losses"]


@dataclass(frozen=True)
class StandsStill:
    """How far the loss fell, and how far the baseline's."""

    fall: float
    baseline_fall: float


@dataclass(frozen=True)
class WentOn:
    """The files that a precision's trials continued from, their fewest steps, and the most steps of any trial."""

    files: tuple[str, ...]
    steps: int
    of: int


@dataclass(frozen=True)
class Explanation:
    """One entry of why a precision is no faster, or no smaller."""

    OMITTED: ClassVar = ("share_low", "share_high")
    text: str = ""
    share: float | None = None  #: of the step, or of the peak; None for a fact
    evidence: EvidenceRef = field(default_factory=EvidenceRef)  #: the figure that it rests on
    #: share_low, share_high: the lowest and the highest, if there are several trials
    share_low: float | None = None
    share_high: float | None = None


@dataclass(frozen=True)
class PrecisionRow:
    """One precision over all its trials, compared with the baseline."""

    precision: str = ""  #: with options
    baseline: str | None = None  #: the precision that it is compared with
    #: that of the first trial that did not end well; `ok` if all did, `dropped` if `--budget` stopped running it
    status: str = ""
    reason: str = ""  #: one sentence
    ran_as: str | None = None  #: in words, what was measured to have run
    ran: Ran = NOT_RECORDED  #: the same as data
    stored: Mapping[str, Mapping[str, int] | None] | None = None  #: bytes by format, as for a trial
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
    memory_ratio: Ratio | None = None  #: its peak over the baseline's, with the same fields
    energy_ratio: Ratio | None = None  #: its joules per step over the baseline's, with the same fields
    same_as_baseline: Cause | None = None  #: why it ran the same as the baseline; `null` where it did not
    #: how far its loss fell and the baseline's, where only the baseline's fell
    stands_still: StandsStill | None = None
    #: FLOPs of products in its step over those in the baseline's; null if that is about one
    work_ratio: float | None = None
    speed_bound: float | None = None  #: how many times as fast the hardware's units could make it at most
    why_no_faster: tuple[Explanation, ...] = ()  #: `text`, `share` and `evidence` of each reason
    why_memory: tuple[Explanation, ...] = ()  #: the same for memory
    #: final value, direction, difference to the baseline, verdict, and the same over the whole run
    loss: FigureRow | None = None
    fall: float | None = None  #: how far its loss fell
    #: the same as `loss` for each logged figure
    logged: Mapping[str, FigureRow] = field(default_factory=dict)
    diverged: Diverged | None = None  #: in how many trials, their seeds and steps; `null` where none did
    quality: Quality = field(default_factory=Quality)  #: the verdict: `kind`, `words`, `seeds`
    went_on: WentOn | None = None  #: files of an earlier trial that its trials continued from, or `null`

    @property
    def is_baseline(self) -> bool:
        """Whether the other precisions are measured against this one."""
        return self.precision == self.baseline

    @property
    def ended_well(self) -> bool:
        """Whether all its trials ended well."""
        return self.status in ("ok", "dropped")

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
