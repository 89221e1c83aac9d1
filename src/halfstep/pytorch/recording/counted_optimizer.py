"""Which optimizer's steps are the steps of the program."""

from __future__ import annotations

import gc
import threading
import weakref

from torch.optim import Optimizer

#: how often Python is made to look for optimizers that nobody uses any more
_COLLECTIONS = 32


class CountedOptimizer:
    """The first that ever stepped, while it lives; then the next that steps.

    One that its learning-rate scheduler or Trainer refers back to lives until Python looks for such rings, at a time
    that no two runs share: where another optimizer steps for the first time, it looks.

    Threads that train a model each make their steps side by side: when the first of them has ended, the others' steps
    count from where they are ahead of it.
    """

    def __init__(self) -> None:
        self._optimizer: weakref.ref[Optimizer] | None = None
        self._thread = 0
        self._before = 0  # the steps that were counted before its first
        # for each other optimizer, the steps that it made in another thread while the counted one lived
        self._others: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._collections = 0

    def counts(self, optimizer: Optimizer, steps: int) -> tuple[bool, bool]:
        """Whether this step of ``optimizer`` is one of the program's, and whether it is made beside those of a thread.

        Args:
            optimizer: it is stepping.
            steps: how many have been counted so far.
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
        """A program that makes an optimizer per task would spend its time on it."""
        if self._collections < _COLLECTIONS:
            self._collections += 1
            gc.collect()
