"""``bf16-sr``: a weight is its bf16 number alone, rounded stochastically after every step and every write.

The optimizer computes with fp32 weights; of the fp32 number x that it makes, one of the two bf16 neighbours stays, the
upper one with probability (x - lower) / (upper - lower). So the mean of many updates is right, though none is kept in
full: rounded to nearest, an update of less than half of bf16's last place would be lost every time (arXiv 2010.06192).

The random bits are a hash of the number, of its place and of a count of steps (stochastic.py has the hash). So the
program's random generators are not used, and processes that hold the same weights round them alike. After a resume the
count is the optimizer's own, where its state has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.pytorch.lean.split import Parts, Remainders
from halfstep.pytorch.lean.stochastic import round_stochastically

#: the difference between the seeds of two roundings, and of two weights: odd, so that 2**32 seeds are different
_A_ROUNDING, _A_WEIGHT = 0x9E3779B1, 0x85EBCA77


class Count:
    """Counts the steps of one weight, and gives each a seed.

    Attributes:
        steps: how many there were.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self.steps = 0

    @property
    def seed(self) -> int:
        """Of the next rounding's random bits."""
        return self._first + self.steps * _A_ROUNDING


@dataclass(frozen=True, eq=False)
class Rounded(Parts):
    """Parts whose weight is a bf16 tensor; the remainder is empty."""

    count: Count  #: of steps
    begin: int = 0  #: how many of the weight's numbers lie before these


class StochasticRounding(Remainders):
    """The form of weights that are bf16 numbers alone."""

    exact = False

    def __init__(self) -> None:
        self._made = itertools.count()

    def parts(self, weight: Tensor) -> Parts:
        count = Count(next(self._made) * _A_WEIGHT)
        return Rounded(weight, weight.new_empty(0, dtype=torch.int16), count)

    def rows(self, parts: Parts, begin: int, end: int) -> Parts:
        """The parts of some rows, in the same memory, rounded as they would be with the other rows."""
        assert isinstance(parts, Rounded)
        before = parts.begin + begin * parts.weight[:1].numel()
        return Rounded(parts.weight[begin:end], parts.remainder, parts.count, before)

    def split(self, wide: list[Tensor], parts: list[Parts]) -> None:
        """Round fp32 tensors."""
        for x, part in zip(wide, parts, strict=True):
            assert isinstance(part, Rounded)
            round_stochastically(x, x, part.weight, (part.count.seed + part.begin) % 2**32)

    def advance(self, parts: Iterable[Parts]) -> None:
        """Note that their weights have been stepped: the next rounding has other random bits.

        It is not noted at every rounding: one process may look at weights, or write them, where others do not.
        """
        for part in parts:
            assert isinstance(part, Rounded)
            part.count.steps += 1

    def resume(self, parts: Parts, steps: Tensor | int) -> None:
        """The optimizer has stepped the weight so often: go on with the random bits that follow, after a resume."""
        assert isinstance(parts, Rounded)
        if parts.count.steps == 0:  # on a GPU, to read a count is to wait
            parts.count.steps = int(steps)

    def join(self, parts: list[Parts], wide: list[Tensor]) -> None:
        """Write bf16 tensors into fp32 tensors."""
        for part, x in zip(parts, wide, strict=True):
            x.copy_(part.weight)
