"""The state of the running step. The loop that makes the step begins and ends it; the other parts report to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras import ops

from halfstep.keras.runtime import Runtime


@dataclass
class Seen:
    """What was seen of a step; scalars of the backend, or plain numbers."""

    loss: Any = None  #: the loss before any scaling; None if none was seen
    scale: Any = None  #: the factor that the loss was multiplied by; None for none
    finite: Any = None  #: whether the gradients were finite; None if nobody looked
    samples: Any = None  #: the size of the batch


class TrainStep(threading.local):
    """The running train_step, one per replica: TensorFlow's strategies run replicas in threads.

    Attributes:
        seen: what was seen of it; None outside.
        optimizer: the one with which the model was compiled; None outside, or if it has none.
    """

    seen: Seen | None = None
    optimizer: Any = None
    trace: Any = None


class StepState:
    """What is known about the running step. Only this class assigns to its attributes.

    Attributes:
        training: whether a model's train function is running, or being traced.
        busy: whether a pass or a step is running, to which every gradient and step that is met belongs.
        loss_scaled: Keras has scaled the loss, and its gradients have not been applied yet.
        finite: whether Keras found the gradients finite; None before it looked.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.training = False
        self.busy = False
        self.loss_scaled = False
        self.finite: Any = None
        self._extra_finite: Any = None
        self._jax_passed = False
        self._runtime = runtime
        self.within = TrainStep()

    @contextmanager
    def train_function(self) -> Iterator[None]:
        """Keras's own loop calls a train function."""
        self.training = True
        try:
            yield
        finally:
            self.training = False

    @contextmanager
    def train_step(self, optimizer: Any, scale: Any, samples: Any) -> Iterator[Seen]:
        """A ``train_step`` runs, of a model that was compiled with ``optimizer``, whose loss scale is ``scale``."""
        here = self.within
        self.loss_scaled, self.finite, self._extra_finite = False, None, None
        here.seen = Seen(scale=None if scale is None else self._runtime.copied(scale), samples=samples)
        here.optimizer, here.trace = optimizer, self._runtime.trace()
        self._runtime.train_step_scale(scale)
        try:
            yield here.seen
        finally:
            self._runtime.train_step_scale(None)
            here.seen = here.optimizer = here.trace = None

    @contextmanager
    def part_of_loop(self) -> Iterator[None]:
        """A pass or a step is made; the gradients and steps met meanwhile belong to it."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def begin_pass(self) -> None:
        """The function whose gradient JAX computes is about to be called."""
        self.loss_scaled = False

    def begin_apply(self) -> None:
        """An optimizer of a script's own loop is about to step."""
        self.finite = None

    def pass_scaled(self) -> None:
        """``jax.grad`` has computed gradients of a loss, which it has scaled if the recipe has a scale."""
        self._jax_passed = True

    def take_pass(self) -> bool:
        """Whether :meth:`pass_scaled` has been called since the last call of this method."""
        passed, self._jax_passed = self._jax_passed, False
        return passed

    def scaled(self, scale: Callable[[], Any]) -> None:
        """Keras has scaled the loss, by ``scale()``."""
        self.loss_scaled = True
        self._runtime.loss_scaled(scale)

    def applied(self) -> None:
        """A LossScaleOptimizer has stepped, or skipped the step."""
        self.loss_scaled = False
        self._runtime.loss_scaled(None)

    def checked(self, finite: Any) -> None:
        """A LossScaleOptimizer has found whether the gradients are finite."""
        self.finite = finite

    def checked_extra(self, finite: Any) -> None:
        """An optimizer that the model was not compiled with has stepped, or (not ``finite``) was kept from it."""
        before = self._extra_finite
        self._extra_finite = finite if before is None else ops.logical_and(before, finite)

    @property
    def all_finite(self) -> Any:
        """Whether all gradients are finite, as a number whose mean can be taken; None where nobody looked."""
        found = self.finite if self._extra_finite is None else self._extra_finite
        if self.finite is not None and self._extra_finite is not None:
            found = ops.logical_and(self.finite, self._extra_finite)
        return self._runtime.reducible(found)

    def loss_known(self, loss: Any) -> None:
        """The loss of the running train_step before scaling, as Keras gives it to the optimizer."""
        here = self.within
        if here.seen is not None and self._runtime.trace() is here.trace:
            here.seen.loss = self._runtime.copied(self._runtime.undivided(loss))

    def pass_begins(self, losses: Sequence[Any]) -> None:
        """A backward pass of a train_step starts from ``losses``; they are the loss unless Keras has given one."""
        here = self.within
        own = here.seen is not None and here.seen.loss is None and self._runtime.trace() is here.trace
        if here.seen is not None and own and losses and not self.loss_scaled:
            here.seen.loss = self._runtime.copied(losses[0])
