"""Loss scales: frozen values with one verb set, so that a training loop need not know which one it has.

The loss is multiplied by the scale before the backward pass and the gradients divided by it afterwards, so
that small gradients stay above fp16's smallest subnormal, 2^-24 (Micikevicius et al., Mixed Precision
Training, ICLR 2018). Every scale is a power of two, so scaling and unscaling are exact in a binary format.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from halfstep.errors import UsageError


def power_of_two(value: float, what: str) -> float:
    """Return ``value`` if it is a positive power of two.

    Raises:
        UsageError: ``value`` is something else; the message names the nearest powers of two.
    """
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{what} is {value:g}; it must be a positive power of two, for example 1024.")
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5:
        below, above = 2.0 ** (exponent - 1), 2.0**exponent
        raise UsageError(
            f"{what} is {value:g}; it must be a power of two, for example {below:g} or {above:g}."
        )
    return float(value)


def scale_words(value: float) -> str:
    """A power of two for people: 1024 is `1,024`, 0.0625 is `2^-4`."""
    return f"{value:,.0f}" if value >= 1 or value <= 0 else f"2^{round(math.log2(value))}"


class LossScale(ABC):
    """What a loss is multiplied by before the backward pass. Instances are immutable."""

    value: float

    @abstractmethod
    def next(self, finite: bool) -> LossScale:
        """The scale for the next step, given whether this step's gradients were finite."""

    @property
    @abstractmethod
    def guards(self) -> bool:
        """Whether a step with gradients that are not finite is to be skipped."""


@dataclass(frozen=True)
class NoScale(LossScale):
    """The loss as it is; a step is never skipped on account of its gradients."""

    value: float = 1.0

    guards = False

    def next(self, finite: bool) -> NoScale:
        return self


@dataclass(frozen=True)
class StaticScale(LossScale):
    """One fixed power of two; steps whose gradients are not finite are skipped, the scale stays."""

    value: float

    guards = True

    def __post_init__(self) -> None:
        power_of_two(self.value, "loss_scale")

    def next(self, finite: bool) -> StaticScale:
        return self


#: how many times a dynamic scale backs off at its first overflow, its second and so on, before any finite step
FALLS = (1, 1, 1, 1, 2, 4, 8)


@dataclass(frozen=True)
class DynamicScale(LossScale):
    """The largest power of two that the gradients bear, found by trial.

    After a step whose gradients are not finite the scale is halved (``backoff``), never below ``floor``;
    after ``interval`` finite steps in a row it is doubled (``growth``), never above ``ceiling``.

    Example: from 65536, one overflow gives 32768; 2000 finite steps later 65536 again.

    The floor is below 1: gradients of 1e5 and more, of a loss that is a sum, do not fit into fp16 unscaled.
    As long as no step was finite the scale is being found: it falls faster after every few overflows (``FALLS``), and
    what it fell too far it regains in the next steps, a doubling per finite step, up to half the lowest scale that
    overflowed. Every step that this saves is a batch that the program trains on.

    Source: Micikevicius et al. 2018, section 3.2; the defaults are those of torch.amp.GradScaler, with a floor.
    """

    value: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    floor: float = 2.0**-24
    ceiling: float = 2.0**24
    finite_steps: int = 0
    #: overflows so far, while the scale is being found; None afterwards
    falls: int | None = field(default=0, compare=False)
    #: the scale that overflowed last, while the scale is being found and regained; 0 afterwards
    overflowed: float = field(default=0.0, compare=False)

    guards = True

    def __post_init__(self) -> None:
        for name in ("value", "growth", "backoff", "floor", "ceiling"):
            power_of_two(getattr(self, name), "init_scale" if name == "value" else name)
        if self.interval < 1:
            raise UsageError(f"growth_interval is {self.interval}; it must be 1 step or more.")
        if not self.floor <= self.value <= self.ceiling:
            raise UsageError(
                f"init_scale is {self.value:g}; it must lie between the floor {self.floor:g} "
                f"and the ceiling {self.ceiling:g}."
            )
        if self.growth <= 1 or self.backoff >= 1:
            raise UsageError(
                f"growth is {self.growth:g} and backoff {self.backoff:g}; growth must be above 1, backoff below 1."
            )

    @property
    def at_floor(self) -> bool:
        """Whether the scale cannot fall any further."""
        return self.value <= self.floor

    def next(self, finite: bool) -> DynamicScale:
        if not finite:
            return self._fallen()
        if self.value * self.growth < self.overflowed:
            return self._moved(self.value * self.growth, 0, overflowed=self.overflowed)
        if self.finite_steps + 1 < self.interval:
            return self._moved(self.value, self.finite_steps + 1)
        return self._moved(min(self.value * self.growth, self.ceiling), 0)

    def next_of(
        self, ops: Any, value: Any, finite_steps: Any, finite: Any, counts: bool = True
    ) -> tuple[Any, Any]:
        """:meth:`next` inside of a graph, where a scale falls by one ``backoff`` at a time and regains nothing.

        Args:
            ops: ``where``, ``minimum`` and ``maximum`` for the arrays that are given.
            finite_steps: how many were finite in a row.
            counts: whether this step counts towards growth.

        Returns:
            The scale and the count for the next step.
        """
        none = finite_steps * 0  # of its dtype
        count = ops.where(finite, finite_steps + int(counts), none)
        full = count >= self.interval
        grown = ops.minimum(value * self.growth, self.ceiling)
        smaller = ops.maximum(value * self.backoff, self.floor)
        return ops.where(finite, ops.where(full, grown, value), smaller), ops.where(full, none, count)

    def _fallen(self) -> DynamicScale:
        if self.falls is None:
            return self._moved(max(self.value * self.backoff, self.floor), 0)
        times = FALLS[min(self.falls, len(FALLS) - 1)]
        value = max(self.value * self.backoff**times, self.floor)
        return self._moved(value, 0, self.falls + 1, self.value)

    def _moved(
        self, value: float, finite_steps: int, falls: int | None = None, overflowed: float = 0.0
    ) -> DynamicScale:
        """As ``replace``, without looking at every step whether what was allowed is allowed."""
        moved = object.__new__(type(self))
        moved.__dict__.update(
            self.__dict__, value=value, finite_steps=finite_steps, falls=falls, overflowed=overflowed
        )
        return moved


@dataclass(frozen=True)
class Skip:
    """A step that was left out."""

    step: int  #: its number, from 0
    scale: float  #: the loss scale that it was made under
    reason: str  #: what was wrong with its gradients
    #: whether it is one of the program's steps: of several optimizers, those of the first are
    counts: bool = True


@dataclass(frozen=True)
class Skips:
    """What was skipped so far, when and why."""

    before: int = 0  #: how many steps were skipped before the checkpoint that the program has gone on from
    since: tuple[Skip, ...] = ()  #: those skipped since, oldest first

    @property
    def count(self) -> int:
        """How many steps were skipped in all."""
        return self.before + len(self.since)

    @property
    def counted(self) -> int:
        """How many of the program's steps were skipped since."""
        return sum(skip.counts for skip in self.since)

    def next(self, skip: Skip | None) -> Skips:
        """After a step that was skipped, or made (None)."""
        return self if skip is None else replace(self, since=(*self.since, skip))
