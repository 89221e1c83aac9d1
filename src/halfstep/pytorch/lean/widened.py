"""Parameters that are bf16 with a remainder, and their gradients, in fp32 for the time of an optimizer's arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.shard import local_of
from halfstep.pytorch.lean.split import Parts


class Widened:
    """Some parameters, which are fp32 with their gradients from :meth:`begin` to :meth:`end`.

    Args:
        masters: all that this process has.
        some: those of the parameters.
        weights, gradients: make fp32 tensors like the parts of a parameter; their numbers are not set.
    """

    def __init__(
        self,
        masters: Masters,
        some: list[Master],
        weights: Callable[[Parts], Tensor] = Parts.empty,
        gradients: Callable[[Parts], Tensor] = Parts.empty,
    ) -> None:
        self._masters, self._some = masters, some
        self._memory_of_weights, self._memory_of_gradients = weights, gradients
        self._made: list[Master] = []
        self._outer = False
        self._gradients: list[tuple[Tensor, Tensor, Tensor, int]] = []

    def begin(self) -> None:
        """The optimizer's arithmetic is about to start."""
        self._made = self._masters.widen(self._some, self._memory_of_weights)
        self._outer, self._masters.stepping = self._masters.stepping, True
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        copies: list[Tensor] = []
        narrow: list[Tensor] = []
        for master in self._made:
            parameter = master.parameter
            gradient = parameter.grad
            if gradient is None or gradient.dtype is torch.float32:
                continue
            if gradient.layout is torch.strided:
                local = self._memory_of_gradients(master.parts)
                copies.append(local)
                narrow.append(local_of(gradient.detach()))
                wide = master.like_parameter(local)
            else:
                wide = gradient.detach().to(torch.float32)
            parameter.grad = wide
            made.append((parameter, gradient, wide))
        if narrow:
            torch._foreach_copy_(copies, narrow)
        self._gradients = [(parameter, gradient, wide, wide._version) for parameter, gradient, wide in made]

    def end(self) -> None:
        """The arithmetic is over, or interrupted by a closure."""
        gradients, self._gradients = self._gradients, []
        with torch.no_grad():
            for parameter, gradient, wide, version in gradients:
                if parameter.grad is wide:
                    if wide._version != version:
                        gradient.copy_(wide)
                    parameter.grad = gradient
        self._masters.stepping = self._outer
        self._masters.narrow(self._made)
        self._masters.form.advance(master.parts for master in self._made)

    def around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """``closure``, in which the parameters are bf16."""

        @functools.wraps(closure)
        def evaluate() -> Any:
            self.end()
            try:
                return closure()
            finally:
                self._masters.flush()
                self.begin()

        return evaluate
