"""Under a recipe that computes in fp32, everything that the program would compute in 16 bits is fp32.

It comes into force when the program is found to hold, or to ask for, 16-bit numbers. Fp32 programs are not touched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from halfstep.pytorch.autocast import lists
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights import literal_dtypes, makers
from halfstep.pytorch.weights.casts import Casts
from halfstep.pytorch.weights.pointwise import Pointwise


class OnlyFp32:
    """The kernels and functions, until :meth:`remove`.

    Args:
        found: called with a 16-bit dtype that a model names.
        saves: tells whether a tensor that the script casts, outside of models, is a weight.
    """

    def __init__(
        self, patches: Patches, found: Callable[[torch.dtype], None], saves: Callable[[Tensor], bool]
    ) -> None:
        self._patches, self._saves = patches, saves
        self._casts, self._from_nothing = Casts(found), literal_dtypes.FromNothing(found, patches)
        self._pointwise: Pointwise | None = None
        self._stepped = False
        self._undo: list[Callable[[], None]] = [self._casts.remove, self._from_nothing.remove]

    def begin(self) -> None:
        """The program holds 16-bit numbers: put everything into force, once."""
        if self._pointwise is None:
            self._pointwise = Pointwise()
            makers.replace(self._patches)
            named = literal_dtypes.replace(self._saves)
            self._from_nothing.begin()
            self._undo += (lists.apply().remove, named.remove, self._pointwise.remove)

    def after_first_step(self) -> None:
        """Take away what the first step did not need, once: kernels in Python take time in every call."""
        if self._stepped:
            return
        self._stepped = True
        if not self._casts.met:
            self._casts.remove()
        if self._pointwise is None:
            self._from_nothing.remove()
        elif not self._pointwise.met:
            self._pointwise.remove()

    def remove(self) -> None:
        """Take everything away."""
        for undo in self._undo:
            undo()
