"""A diagnosis as values: every object that ``halfstep diagnose --json`` writes, under the names that it has there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SCHEMA = "halfstep/diagnosis/1"

#: the kinds of numbers that are counted in a layer
NumberKind = Literal["weights", "inputs", "activations", "gradients", "weight_gradients", "updates"]


@dataclass(frozen=True)
class RemedyRow:
    """A way to mend a finding; ``works`` is None where it was not tried, ``outcome`` what was seen."""

    text: str = ""
    recipe: str | None = None
    works: bool | None = None
    outcome: str = ""


@dataclass(frozen=True)
class FindingRow:
    """One thing seen to be wrong; see :class:`halfstep.diagnosis.finding.Finding`."""

    kind: str = ""
    severity: int = 0
    where: str = ""
    operation: str = ""
    direction: str = ""
    step: int | None = None
    evidence: str = ""
    remedies: tuple[RemedyRow, ...] = ()
    fault: str = ""
    source: str = ""
    code: str = ""
    also: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class LayerPart:
    """The numbers of one kind in one layer, and what a format does to them.

    Attributes:
        format: the format; ``scaled`` where its scales follow the numbers, so that its range lies nowhere for good.
        scale: the loss scale that is on them.
        flushed, subnormal, overflowing: shares of the numbers that are not zero.
        lost: of the sum of magnitudes, what the flushed ones held.
        headroom: powers of two from the largest number to the format's largest.
        exponents: how many by binary exponent, the loss scale taken off; -127 for zeros, 128 for what is not finite.
    """

    format: str = ""
    scaled: bool = False
    scale: float | None = None
    flushed: float | None = None
    subnormal: float | None = None
    overflowing: float | None = None
    lost: float | None = None
    headroom: float | None = None
    largest: float | None = None
    zeros: float | None = None
    exponents: Mapping[int, int] = field(default_factory=dict)
    elements: int | None = None
    counted: int | None = None

    @property
    def gone(self) -> float:
        """The share that becomes zero or overflows."""
        return (self.flushed or 0.0) + (self.overflowing or 0.0)


@dataclass(frozen=True)
class ScaleRange:
    """The loss scales that serve, lowest and highest; the lowest is above where no one scale does."""

    low: float
    high: float


@dataclass(frozen=True)
class OverallScale(ScaleRange):
    """The same for all layers, and the one advised."""

    serves_all: bool = False
    advised: float | None = None


@dataclass(frozen=True)
class LayerRow:
    """One layer: its numbers by kind."""

    module: str = ""
    type: str = ""
    weights: LayerPart | None = None
    inputs: LayerPart | None = None
    activations: LayerPart | None = None
    gradients: LayerPart | None = None
    weight_gradients: LayerPart | None = None
    updates: LayerPart | None = None
    loss_scale: ScaleRange | None = None

    def part(self, kind: NumberKind) -> LayerPart | None:
        """The numbers of one kind."""
        found: LayerPart | None = getattr(self, kind)
        return found


@dataclass(frozen=True)
class Reference:
    """The same training in fp32."""

    precision: str = ""
    status: str = ""
    reason: str = ""
    steps: int | None = None
    losses: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Program:
    """The program and its arguments, and the folder."""

    command: tuple[str, ...] = ()
    cwd: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found."""

    schema: str = SCHEMA
    program: Program = Program()
    precision: str = ""
    ran_as: str = ""
    emulated: bool = False
    as_on: str | None = None
    status: str = ""
    reason: str = ""
    steps: int | None = None
    skipped_steps: int | None = None
    losses: tuple[float | None, ...] = ()
    reference: Reference | None = None
    compiled: Mapping[str, object] | None = None
    findings: tuple[FindingRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    loss_scale: OverallScale | None = None
    notes: tuple[str, ...] = ()
