"""The events that a watch wrote into a record, as values; :mod:`halfstep.pytorch.watching.watch` says when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from halfstep.codec import Unreadable, read
from halfstep.record.events import Watched

T = TypeVar("T")

SIXTEEN_BIT = ("bf16", "fp16")

#: the kinds of numbers that are counted in a layer
NumberKind = Literal["weights", "inputs", "activations", "gradients", "weight_gradients", "updates"]
KINDS: tuple[NumberKind, ...] = get_args(NumberKind)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and when something was seen; a finding has the same fields, with ``where`` for ``module``."""

    step: int
    module: str = ""
    operation: str = ""
    direction: str = ""
    source: str = ""
    code: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the place; the step does not matter."""
        return self.module, self.operation, self.direction


@dataclass(frozen=True)
class Domain:
    """A computation that has no finite result, in words, and for how many elements."""

    words: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Origin(Place):
    """An operation with a result that is not finite, from inputs that held no NaN."""

    dtype: str
    at: float  #: seconds since the start of the program
    of: str = ""  #: of a backward pass, the forward operation whose gradient it computes
    from_infinity: bool  #: whether an infinity was among the inputs
    infinite: int
    nan: int
    elements: int
    #: the largest magnitude of the same operation in fp32; None where it cannot be told
    exact: float | None = None
    domain: Domain | None = None
    inputs: tuple[Mapping[str, float | None], ...] = ()  #: of each, the ``largest`` finite magnitude
    scale: float = 1.0  #: the loss scale that was in force


@dataclass(frozen=True, kw_only=True)
class Given(Place):
    """Inputs that were not finite: ``count`` of a model's inputs, or (None) those of an operation."""

    count: int | None = None
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class Epsilon(Place):
    """A constant that is zero in the format it is added in."""

    value: float
    dtype: str


@dataclass(frozen=True, kw_only=True)
class OptimizerEps:
    """An optimizer's ``eps`` that is zero in the format of its state; ``divided``: its step divided by it."""

    step: int
    type: str
    value: float
    dtype: str
    modules: tuple[str, ...] = ()
    divided: bool = False


@dataclass(frozen=True, kw_only=True)
class Sum(Place):
    """A 16-bit sum that stops growing: after so many additions, or compared with the same sum in fp32."""

    dtype: str
    reached: float
    additions: int | None = None
    relative_error: float | None = None
    exact: float | None = None


@dataclass(frozen=True, kw_only=True)
class Update:
    """A 16-bit weight, from ``step`` on: of ``due`` elements that had a gradient, ``lost`` did not move."""

    step: int
    module: str = ""
    parameter: str
    optimizer: str
    dtype: str
    lost: int
    due: int


@dataclass(frozen=True, kw_only=True)
class State:
    """Gradients that were not finite: the last parameters that had some, and whether the weights were still finite."""

    step: int
    weights: bool = True
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counted:
    """Which numbers an event counts: their module, their kind, and the module's class."""

    module: str
    kind: NumberKind
    type: str = ""


@dataclass(frozen=True)
class Graph:
    """A compiled graph beside the same graph run eagerly, on the inputs of its first call."""

    graph: int  #: its number, from 1, in the order of their first calls
    error: float  #: the largest difference of a result by that result's largest magnitude
    #: module, last: the first and the last layer whose operations it holds
    module: str = ""
    last: str = ""


Seen = Origin | Given | Epsilon | OptimizerEps | Sum | Update | State
_KINDS: Mapping[str, type[Seen]] = {
    "origin": Origin, "arrived": Given, "input": Given, "epsilon": Epsilon, "optimizer": OptimizerEps, "sum": Sum,
    "update": Update, "state": State,
}  # fmt: skip


def seen(events: Iterable[Watched]) -> Iterator[Seen]:
    """The events of a watch that say what was seen; an event that lacks a required field is left out."""
    for event in events:
        kind = _KINDS.get(event["what"])
        if kind is not None:
            yield from readable(kind, event)


def readable(kind: type[T], event: Watched) -> list[T]:
    """The event as a value; empty where it is damaged."""
    try:
        return [read(kind, event)]
    except Unreadable:
        return []
