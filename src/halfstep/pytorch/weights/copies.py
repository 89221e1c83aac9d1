"""Copies of a model that were made before its weights are converted are converted with it.

An average of weights (``AveragedModel``, Lightning's weight averaging, EMA of other libraries) starts as a ``deepcopy``
of the model. If only the model were converted later, the update of the average would meet two dtypes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from halfstep.pytorch.dtypes import KEPT
from halfstep.pytorch.patches import Patches
from halfstep.takeover.identity import IdentityDict, IdentitySet


class Copies:
    """Remembers which module was copied from which."""

    def __init__(self) -> None:
        self._of: IdentityDict[nn.Module, IdentitySet[nn.Module]] = IdentityDict()

    def install(self, patches: Patches) -> None:
        """Note every ``copy.deepcopy`` of a module, unless its class defines its own.

        The function inside ``copy`` is wrapped. A ``__deepcopy__`` of modules would not do: PyTorch gives parametrized
        modules their own only if their class has none.
        """

        def noting(original: Callable[..., Any]) -> Callable[..., Any]:
            def _reconstruct(value: Any, memo: dict[int, Any] | None, *parts: Any, **more: Any) -> Any:
                made = original(value, memo, *parts, **more)
                if memo is not None and isinstance(value, nn.Module):
                    self._of.setdefault(value, IdentitySet()).add(made)
                return made

            return _reconstruct

        patches.wrap(copy, "_reconstruct", noting)

    def with_copies(self, module: nn.Module) -> Iterator[nn.Module]:
        """The parts of ``module``, those of copies of any of them that still exist, of copies of copies, and so on.

        A copy of a module that ``keep=`` holds in fp32 is held in fp32, too.
        """
        for part in module.modules():
            yield part
            for made in list(self._of.get(part, ())):
                if KEPT in part.__dict__:
                    made.__dict__[KEPT] = True
                yield from self.with_copies(made)
