"""Which parameters of this process are bf16 with a remainder, for code that needs to know only that."""

from __future__ import annotations

import weakref
from typing import Protocol

from torch import Tensor


class Held(Protocol):
    """What is known of such a parameter."""

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        """The tensors that hold the weight, without the remainders."""

    @property
    def remainder(self) -> Tensor:
        """int16, of the parameter's shape, or empty."""


_HELD: dict[int, tuple[weakref.ref[Tensor], Held]] = {}


def enter(parameter: Tensor, held: Held) -> None:
    """Enter ``parameter``, as long as it lives."""
    key = id(parameter)

    def gone(reference: weakref.ref[Tensor]) -> None:
        if (known := _HELD.get(key)) is not None and known[0] is reference:
            del _HELD[key]

    _HELD[key] = (weakref.ref(parameter, gone), held)


def leave(parameter: Tensor) -> None:
    """Take ``parameter`` out."""
    _HELD.pop(id(parameter), None)


def held(tensor: Tensor) -> Held | None:
    """What is known of ``tensor``, if it is a parameter with a remainder."""
    known = _HELD.get(id(tensor))
    return known[1] if known is not None and known[0]() is tensor else None


def every() -> list[Held]:
    """Everything that is known, in the order in which the parameters were entered."""
    return [held for _, held in list(_HELD.values())]
