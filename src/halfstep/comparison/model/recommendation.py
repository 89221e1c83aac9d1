"""Which precision to use, and why: ``recommendation``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from halfstep.comparison.model.references import EvidenceRef

#: the objective of the advice
Prefer = Literal["speed", "memory", "energy", "accuracy"]

PREFER: tuple[Prefer, ...] = ("speed", "memory", "energy", "accuracy")


@dataclass(frozen=True)
class Reason:
    """A reason of the recommendation, and the figure that it rests on."""

    text: str = ""
    evidence: EvidenceRef = field(default_factory=EvidenceRef)


@dataclass(frozen=True)
class Adopt:
    """The lines that make a precision permanent in a script of this framework."""

    framework: str = ""
    code: str = field(default="", metadata={"lines": True})


@dataclass(frozen=True)
class Recommendation:
    """Which precision to use, by which rule of advice."""

    OMITTED: ClassVar = ("headline", "because")
    decided: bool = True  #: whether the data are enough for it
    precision: str | None = None  #: the one to use; `null` where none is named
    text: str = ""  #: the advice in words: `headline` and `because`, with a colon between them
    #: `text` and `evidence`, a place in this object such as `verdicts[1].speed_ratio`
    reasons: tuple[Reason, ...] = ()
    prefer: Prefer = "speed"  #: the objective: `speed`, `memory`, `energy` or `accuracy`
    rule: str = ""  #: the name of the rule that decided
    adopt: Adopt | None = None  #: `framework` and `code`: the lines that make it permanent
    headline: str | None = None  #: what to do, in a few words
    because: str | None = None  #: why, in a sentence
