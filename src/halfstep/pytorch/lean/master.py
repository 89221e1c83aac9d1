"""A parameter in bf16 whose fp32 number is never lost: the remainder lies beside it.

The parameter object stays the program's own. A model computes with the bf16 number. Code that looks at the parameter
from outside (``.data``, ``detach()``, a state dict, a copy) is shown an fp32 tensor. While anybody holds that tensor it
decides: what is written into it reaches the weight before the weight is used again.
"""

from __future__ import annotations

import threading
import weakref

from torch import Tensor, nn

from halfstep.pytorch.lean.split import Parts
from halfstep.pytorch.raw_data import raw_data, set_raw_data
from halfstep.pytorch.weights.widening import is_alone


class Master:
    """The fp32 numbers of one parameter.

    Attributes:
        parts: the bf16 tensor that the parameter looks at, and the remainders.
        shown: fp32, where somebody outside may hold it; else None.
        thread: the thread that used it last; other threads change nothing.
        set_data: gives the parameter other data, which may be of another dtype.
    """

    __slots__ = ("__weakref__", "_of", "_version", "_wide", "parts", "set_data", "shown", "thread")

    def __init__(self, parameter: nn.Parameter, parts: Parts) -> None:
        self._of = weakref.ref(parameter)
        self.parts = parts
        self.shown: Tensor | None = None
        self.set_data = set_raw_data
        self.thread = threading.current_thread()
        self._wide: Tensor | None = None
        self._version = 0

    @property
    def parameter(self) -> nn.Parameter:
        parameter = self._of()
        assert parameter is not None, "a master outlived its parameter"
        return parameter

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        """The tensors in which the weight is stored, without the remainders."""
        return (self.parameter,)

    @property
    def remainder(self) -> Tensor:
        return self.parts.remainder

    @property
    def size(self) -> int:
        """How many of its numbers are fp32 at once in a step; the same in every process."""
        return self.parts.weight.numel()

    @property
    def numbers(self) -> Tensor:
        """The tensor that the parameter looks at, in this process."""
        return raw_data(self.parameter)

    def like_parameter(self, local: Tensor) -> Tensor:
        """A tensor of the parameter's kind with the numbers ``local`` in this process."""
        return local

    @property
    def is_wide(self) -> bool:
        """Whether the parameter is fp32 for the time of an optimizer's step."""
        return self._wide is not None

    def put_down(self) -> None:
        """Let the parameter look at its bf16 numbers, which agree with the remainders."""
        self._wide = None
        self.set_data(self.parameter, self.parts.weight)
        self.agrees()

    def agrees(self) -> None:
        """Note that the remainders belong to the bf16 numbers as they are now."""
        self._version = self.parameter._version

    def put_up(self, wide: Tensor) -> None:
        """Let the parameter look at ``wide``."""
        self._wide = wide
        self.set_data(self.parameter, wide)

    def let_go(self, wide: Tensor) -> None:
        """Make the parameter an fp32 one with the numbers ``wide``, without remainders."""
        self.set_data(self.parameter, wide)

    def put_instead(self) -> Tensor | None:
        """What somebody has put in the place of the fp32 tensor, as by ``parameter.data = ...``; else None."""
        data = raw_data(self.parameter)
        return None if self._wide is not None and _are_one(data, self._wide) else data

    def follow(self) -> None:
        """Set the remainders to zero if somebody else has written into the bf16 numbers, as PyTorch's count tells."""
        parameter = self.parameter
        if parameter._version == self._version:
            return
        self._version = parameter._version
        self.parts.remainder.zero_()
        if self.shown is not None:
            self.shown.copy_(self.parts.weight)

    @property
    def is_held_outside(self) -> bool:
        """Whether somebody holds the tensor that was shown, or a view of it."""
        return self.shown is not None and not is_alone(self.shown)


def _are_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return (a.dtype, a.data_ptr(), a.shape, a.stride()) == (b.dtype, b.data_ptr(), b.shape, b.stride())
