"""Copies of a model that are made before its weights are converted follow it.

An average of weights (``AveragedModel``, Lightning's weight averaging, EMA of other libraries) starts as a
``deepcopy`` of the model. Where the model is converted later, its update would meet two dtypes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
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
        """Look at every ``copy.deepcopy`` of a module whose class does not define its own.

        Where ``copy`` makes it, not in a ``__deepcopy__`` of modules: PyTorch gives parametrized ones their own only
        if their class has none.
        """

        def noting(original: Callable[..., Any]) -> Callable[..., Any]:
            def _reconstruct(value: Any, memo: dict[int, Any] | None, *parts: Any, **more: Any) -> Any:
                made = original(value, memo, *parts, **more)
                if memo is not None and isinstance(value, nn.Module):
                    self._of.setdefault(value, weakref.WeakSet()).add(made)
                return made

            return _reconstruct

        patches.wrap(copy, "_reconstruct", noting)

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
