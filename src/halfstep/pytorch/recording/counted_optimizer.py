"""Which optimizer's steps are the steps of the program."""

from __future__ import annotations

import gc
import threading
import weakref

from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

#: how often Python's garbage collector is called to find optimizers that nobody uses any more
_COLLECTIONS = 32


class CountedOptimizer:
    """The optimizer whose steps are counted: the first one that stepped, while it lives; then the next one that steps.

    An optimizer in a reference cycle with its scheduler or Trainer lives until Python collects garbage, which happens
    at another time in every run. So garbage is collected when another optimizer steps for the first time.

    Threads that each train a model make their steps side by side. When the first of them has ended, the others' steps
    count as soon as there are more of them.
    """

    def __init__(self) -> None:
        self._optimizer: weakref.ref[Optimizer] | None = None
        self._thread = 0
        self._before = 0  # how many steps were counted before its first one
        # other optimizer -> how many steps it made in another thread while the counted one lived
        self._others = WeakIdKeyDictionary()
        self._collections = 0

    def counts(self, optimizer: Optimizer, steps: int) -> tuple[bool, bool]:
        """Whether this step of ``optimizer`` counts, and whether it is made beside the steps of another thread.

        Args:
            steps: how many steps have been counted so far.
        """
        if self._current() is optimizer:
            return True, False
        here, made = threading.get_ident(), self._others.get(optimizer)
        if made is None and self._current() is not None:
            self._others[optimizer] = 0
            self._collect()
        made = made or 0
        alive = self._current() is not None
        beside = here != self._thread if alive else 0 < made < steps - self._before
        if beside:
            self._others[optimizer] = made + 1
        if alive or beside:
            return False, beside
        self._optimizer, self._thread, self._before = weakref.ref(optimizer), here, steps - made
        return True, False

    def _current(self) -> Optimizer | None:
        return None if self._optimizer is None else self._optimizer()

    def _collect(self) -> None:
        """Collect garbage, a limited number of times: a program may make an optimizer per task."""
        if self._collections < _COLLECTIONS:
            self._collections += 1
            gc.collect()
