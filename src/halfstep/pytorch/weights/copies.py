"""Copies of a model that are made before its weights are converted follow it.

An average of weights (``AveragedModel``, Lightning's weight averaging, EMA of other libraries) starts as a
``deepcopy`` of the model. Where the model is converted later, its update would meet two dtypes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn

from halfstep.pytorch.dtypes import KEPT
from halfstep.pytorch.patches import Patches


class Copies:
    """Remembers which module was copied from which."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[nn.Module]] = (
            weakref.WeakKeyDictionary()
        )

    def install(self, patches: Patches) -> None:
        """Look at every ``copy.deepcopy`` of a module whose class does not define its own."""

        def __deepcopy__(module: nn.Module, memo: dict[int, Any]) -> Any:
            made = copy._reconstruct(module, memo, *module.__reduce_ex__(4))  # type: ignore[attr-defined]
            self._of.setdefault(module, weakref.WeakSet()).add(made)
            return made

        patches.set(nn.Module, "__deepcopy__", __deepcopy__)

    def with_copies(self, module: nn.Module) -> Iterator[nn.Module]:
        """The parts of ``module``, the parts of what was copied from any of them and still exists, and so on.

        A copy of what ``keep=`` holds in fp32 is held so, too.
        """
        for part in module.modules():
            yield part
            for made in list(self._of.get(part, ())):
                if KEPT in part.__dict__:
                    made.__dict__[KEPT] = True
                yield from self.with_copies(made)
