"""Selective activation checkpoints in a backward pass that may be repeated.

Such a checkpoint hands out each tensor that it has saved once, and refuses a second backward pass. While a pass may be
repeated, what it had saved is put back each time it recomputes. So the tensors live until the end of the pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

from halfstep.pytorch.patches import Patches


class SelectiveCheckpoints:
    """What the selective checkpoints of the running pass had saved."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[Any, dict[Any, Any]]] | None = None

    def install(self, patches: Patches) -> None:
        """See each recomputation begin."""
        patches.wrap(checkpoint._CachedTorchDispatchMode, "__enter__", self._entering)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """A context for one pass of the script's, in which the same graph may be run several times."""
        outer, self._saved = self._saved, {}
        try:
            yield
        finally:
            self._saved = outer

    def put_back(self) -> None:
        """Put back what was saved: the pass has to be made outside of this context."""
        for mode, saved in (self._saved or {}).values():
            mode.storage.update(_copied(saved))

    def _entering(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def __enter__(mode: Any) -> Any:
            if self._saved is not None:
                _, saved = self._saved.setdefault(id(mode), (mode, _copied(mode.storage)))
                mode.storage.update(_copied(saved))
            return original(mode)

        return __enter__


def _copied(storage: dict[Any, Any]) -> dict[Any, Any]:
    """By operation, its results in their order."""
    return {operation: copy.copy(results) for operation, results in storage.items()}
