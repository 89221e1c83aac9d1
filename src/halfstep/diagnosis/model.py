"""A diagnosis as values: every object that ``halfstep diagnose --json`` writes, under the names that it has there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from halfstep.codec import UNWRITTEN
from halfstep.diagnosis.events import (
    Epsilon,
    Given,
    Graph,
    NumberKind,
    OptimizerEps,
    Origin,
    Place,
    Sum,
    Update,
)
from halfstep.record.ran import Ran

SCHEMA = "halfstep/diagnosis/1"

Kind = Literal[
    "overflow", "underflow", "nan_source", "domain_error", "epsilon_lost", "lost_update", "saturated_sum",
    "scale_collapse",
]  # fmt: skip
#: whose fault it is: the precision's, the model's (fp32 has it as well) or the data's
Fault = Literal["precision", "model", "data"]


# --- what was seen -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NotFinite:
    """Where infinities or NaN began."""

    origin: Origin
    of_scale: bool = False  #: whether it is a gradient that the loss scale may have pushed beyond the format
    hidden: bool = False  #: whether the loss stayed finite
    turned: Origin | None = None  #: where its infinities became NaN, in another operation
    lost: Epsilon | None = None  #: a constant that was to keep the argument from zero, and is zero itself
    in_fp32_too: bool = False  #: whether fp32 does the same


@dataclass(frozen=True)
class Collapse:
    """The loss scale fell to ``lowest`` and the last ``skipped`` steps were skipped; ``last``: why the last one was."""

    lowest: float
    skipped: int
    last: Origin | None


@dataclass(frozen=True)
class Vanished:
    """The share of a layer's gradients, by magnitude, that the format flushes to zero under the loss scale."""

    share: float
    kind: NumberKind
    largest: float
    format: str
    scale: float


@dataclass(frozen=True)
class Operands:
    """The share of operands, by magnitude, that an emulated format flushes or cuts off, and of how many numbers."""

    share: float
    kind: NumberKind
    format: str
    hit: int
    nonzero: int


@dataclass(frozen=True)
class CompiledRun:
    """What the compiled program did, step by step beside the eager one."""

    status: str = ""  #: how its trial ended, and ``reason``
    reason: str = ""
    losses: tuple[float | None, ...] = ()  #: of its steps; None where there was none, or it was not finite
    #: the losses of the first step, compiled and eagerly; None where one of them is not known
    first: tuple[float, float] | None = None
    #: whether they differ by more than rounding does; None where that is not known
    differs: bool | None = None
    #: the first step at which the compiled loss is not finite and the eager one is; None for no step
    only_compiled: int | None = None
    only_eager: int | None = None  #: the first at which it is the other way round
    #: where the compiled run's first loss that is not finite began, in words; empty where it is not known
    began: str = ""
    module: str = ""  #: that module's path
    #: each compiled graph beside the same graph run eagerly, those that draw random numbers left out
    graphs: tuple[Graph, ...] = ()
    #: the number of the first that differs by more than rounding does; None for none
    graph_differs: int | None = None


Evidence = (
    NotFinite | Collapse | Vanished | Operands | CompiledRun | Given | Epsilon | OptimizerEps | Update | Sum
)


# --- findings ----------------------------------------------------------------------------------------------

#: ways to mend a finding: another recipe, or another line of the program
Change = Literal[
    "keep", "fp32", "fp32_beyond_bf16", "range_of_fp32", "block_scales", "weights_in_fp32", "own_weights_in_fp32",
    "dynamic_scale", "loss_scale",
    "clean_data", "look_at_given", "find_cause", "find_gradients_cause", "guard", "clamp", "mask", "larger_epsilon",
    "larger_optimizer_eps", "learning_rate", "sum_in_fp32", "even_sizes", "not_compiled", "other_backend",
]  # fmt: skip


@dataclass(frozen=True)
class Remedy:
    """A way to mend a finding."""

    text: str = ""  #: the change in words
    recipe: str | None = None  #: the precision to run with; None for a change of the program
    works: bool | None = None  #: whether it does; None where it was not tried
    outcome: str = ""  #: what was seen when it was tried, in words
    #: what is to be changed, with the ``names`` and the ``figure`` that it needs
    change: Change | None = field(default=None, metadata=UNWRITTEN)
    names: tuple[str, ...] = field(default=(), metadata=UNWRITTEN)
    figure: float = field(default=0.0, metadata=UNWRITTEN)
    tried: Tried | None = field(default=None, metadata=UNWRITTEN)  #: what was seen, as a value


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; ``seen`` is the value that the sentence ``evidence`` is made from."""

    kind: str = ""
    severity: int = 0  #: 0 to 100
    where: str = ""  #: the module's path; empty for code outside of modules
    operation: str = ""  #: PyTorch's name of the operation; empty where none is to blame
    direction: str = ""  #: `forward`, `backward` or `step`
    step: int | None = None  #: the first step that had it, from 0
    evidence: str = ""  #: what was seen, in figures
    #: `text`, `recipe` (a precision to run with, or `null`), `works` (`null` where it was not tried), `outcome`
    remedies: tuple[Remedy, ...] = ()
    fault: str = ""  #: `precision`, `model` or `data`
    source: str = ""  #: file and line of the program
    code: str = ""  #: that line
    also: tuple[str, ...] = ()  #: other modules that have the same
    remedy: str = ""  #: the first of the remedies, in words
    seen: Evidence | None = field(default=None, metadata=UNWRITTEN)

    @classmethod
    def at(
        cls,
        place: Place,
        kind: Kind,
        severity: int,
        seen: Evidence,
        remedies: Sequence[Remedy],
        fault: Fault = "precision",
        also: Iterable[str] = (),
    ) -> Finding:
        """A finding at the place of an event, no remedy tried yet."""
        return cls(
            kind, severity, place.module, place.operation, place.direction, place.step, remedies=tuple(remedies),
            fault=fault, source=place.source, code=place.code, also=tuple(also), seen=seen,
        )  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A run with a remedy: why it did not end well; or the finding that is left; or its last loss and its steps."""

    reason: str = ""
    found: Finding | None = None
    loss: float = 0.0
    steps: int = 0


# --- layers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerPart:
    """The numbers of one kind in one layer, and what a format does to them."""

    #: the format; ``scaled`` where its scales follow the numbers, so that it has no fixed range
    format: str = ""
    scaled: bool = False
    scale: float | None = None  #: the loss scale that is on them
    #: flushed, subnormal, overflowing: shares of the numbers that are not zero
    flushed: float | None = None
    subnormal: float | None = None
    overflowing: float | None = None
    lost: float | None = None  #: of the sum of magnitudes, what the flushed ones held
    headroom: float | None = None  #: powers of two from the largest number to the format's largest
    largest: float | None = None
    zeros: float | None = None
    #: how many by binary exponent, the loss scale taken off; -127 for zeros, 128 for what is not finite
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

    module: str = ""  #: its path
    type: str = ""  #: its class
    #: its numbers of this kind: shares that are flushed, subnormal and overflowing, counts by binary exponent
    weights: LayerPart | None = None
    inputs: LayerPart | None = None  #: the same of what its products are given (with `--emulate`)
    activations: LayerPart | None = None  #: the same of its results
    gradients: LayerPart | None = None  #: the same of its results' gradients
    weight_gradients: LayerPart | None = None  #: the same of its weights' gradients
    updates: LayerPart | None = None  #: the same of the updates of its weights
    loss_scale: ScaleRange | None = None  #: the loss scales that serve it, `low` to `high`

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


#: what a reader has to know of how the numbers were seen: of large tensors only a part was counted; a compiled model
#: ran eagerly; operands of emulated products were counted; the reference is missing
Note = Literal["in_part", "eager", "emulated", "no_reference"]


@dataclass(frozen=True)
class Looked:
    """How the numbers were seen: the steps that were counted, what the reference ran as, the record's warnings."""

    steps: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()
    reference_ran: Ran | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found; ``notes`` are made from ``looked`` and ``compiled``."""

    schema: str = SCHEMA  #: `halfstep/diagnosis/1`
    program: Program = Program()  #: `command` and `cwd`
    precision: str = ""  #: that was asked about
    ran_as: str = ""  #: in words, what ran
    emulated: bool = False  #: whether it was emulated
    as_on: str | None = None  #: `cuda` where its autocast list was applied
    status: str = ""  #: how the watched trial ended
    reason: str = ""  #: one sentence
    steps: int | None = None  #: that were made
    skipped_steps: int | None = None  #: of these, how many were skipped
    losses: tuple[float | None, ...] = ()  #: one per step
    #: the same training in fp32: `precision`, `status`, `reason`, `steps`, `losses`
    reference: Reference | None = None
    #: of a compiled program, how it differs from the same run eagerly; otherwise `null`
    compiled: CompiledRun | None = None
    findings: tuple[Finding, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    #: the loss scales that serve every layer, `low` to `high`, and the one `advised`
    loss_scale: OverallScale | None = None
    notes: tuple[str, ...] = ()  #: sentences
    looked: Looked = field(default=Looked(), metadata=UNWRITTEN)
