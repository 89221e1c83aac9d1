"""The comparison as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from halfstep.comparison.model.budget import Budget
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.model.recommendation import Recommendation
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow

SCHEMA = "halfstep/comparison/1"


@dataclass(frozen=True)
class Program:
    """The program that was run: its command after python's own name, the folder, the launcher."""

    command: tuple[str, ...] = ()
    module: bool = False
    cwd: str = ""
    launch: str = ""


@dataclass(frozen=True)
class Trend:
    """How far step times rose over some steps (0.1: by 10 %), the p value of no trend, and whether it is reported."""

    rise: float
    p: float
    significant: bool = False


@dataclass(frozen=True)
class Drift:
    """Whether the machine became slower or faster: from trial to trial, and within the trials."""

    across_trials: Trend | None = None
    within_trials: Trend | None = None
    words: str = ""


@dataclass(frozen=True)
class Method:
    """How a figure was measured or computed."""

    figure: str = ""
    how: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared."""

    OMITTED: ClassVar = ("fit_batch", "budget")
    schema: str = SCHEMA  #: `halfstep/comparison/1`
    program: Program = Program()  #: `command` (after python's own name), `module`, `cwd`, `launch`
    #: the machine: versions, CPU, cores, frameworks, devices and what each can do
    environment: Environment = field(default_factory=Environment)
    options: Mapping[str, object] = field(default_factory=dict)  #: the options of the command
    trials: tuple[TrialRow, ...] = ()
    missing: tuple[str, ...] = ()  #: names of trials that were asked for and did not run
    verdicts: tuple[PrecisionRow, ...] = ()
    #: whether the machine became slower or faster: `across_trials`, `within_trials`
    speed_drift: Drift = Drift()
    recommendation: Recommendation = field(default_factory=Recommendation)
    method: tuple[Method, ...] = ()  #: for each figure how it was measured or computed
    fit_batch: Fit | None = None  #: with `--fit-batch`: the largest batches; otherwise there is no such field
    #: with `--budget`: `seconds`, `end` (why it ended) and `standings` (for each precision what is open, why it was
    #: dropped, how many pairs it needs); otherwise there is no such field
    budget: Budget | None = None

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
