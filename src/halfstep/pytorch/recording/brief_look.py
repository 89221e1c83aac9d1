"""Finds what the last line of a run without a record says: the formats of weights and products."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor

from halfstep.pytorch.products.products import Listening
from halfstep.pytorch.recording.products import ProductCounter
from halfstep.pytorch.recording.stored import weights_by_format
from halfstep.pytorch.unseen import unseen_look
from halfstep.takeover.base import SAMPLED_STEP
from halfstep.takeover.looks import Looks, look

_WEIGHTS, _PRODUCTS = "weights by format", "products by format"


class BriefLook:
    """Looks at the weights after the first step and the second, and counts the products of the second.

    It makes one step some milliseconds slower.

    Args:
        parameters: gives the weights after the first step.
    """

    def __init__(
        self,
        parameters: Callable[[], list[Tensor]],
        write: Callable[..., None],
        emulated: str,
        looks: Looks,
    ) -> None:
        self._parameters, self._write, self._emulated, self._looks = parameters, write, emulated, looks
        self._counter: ProductCounter | None = None
        self._listening = Listening()
        self._lock = threading.RLock()  # threads may train at the same time, and there is one profiler

    def __call__(self, index: int) -> None:
        """Step ``index``, counted from 0, has ended; by then a recipe has made its 16-bit weights."""
        if index not in (SAMPLED_STEP - 1, SAMPLED_STEP):
            return
        with self._lock:
            if index == SAMPLED_STEP:
                self._end()
                if why := self._looks.absent(_PRODUCTS):
                    self._write("sample", absent=why)
                self._tell_weights()  # of the optimizers that have stepped since, too
                return
            self.close()  # it may be counting, if the count of steps begins again
            self._tell_weights()
            self._begin()

    def _tell_weights(self) -> None:
        self._look_at_weights()
        if why := self._looks.absent(_WEIGHTS):
            self._write("stored", absent={"weights": why})

    @unseen_look(_WEIGHTS)
    def _look_at_weights(self) -> None:
        self._write("stored", weights=weights_by_format(self._parameters()))

    @look(_PRODUCTS)
    def _begin(self) -> None:
        self._counter = ProductCounter(self._emulated)
        self._listening.begin()
        self._counter.begin()

    @look(_PRODUCTS)
    def _end(self) -> None:
        counted = self._stop()
        if counted is not None:
            flops: dict[str, object] = {"matmul_flops": dict(counted.flops)}
            told = {"absent": counted.counted.absent} if counted.counted.absent else flops
            reduced = {"reduced_bytes": dict(counted.counted.reduced)} if counted.counted.reduced else {}
            self._write("sample", fp32_units=self._listening.end(), **told, **reduced)

    def _stop(self) -> ProductCounter | None:
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.end()
        return counter

    @look(_PRODUCTS)
    def close(self) -> None:
        """The steps are over: stop a profiler that still runs, which would crash the process at its end."""
        with self._lock:
            if self._stop() is not None:
                self._listening.end()
