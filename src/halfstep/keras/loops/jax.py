"""JAX loops of the script's own: ``jax.grad`` and ``stateless_apply`` or ``apply`` of an optimizer of Keras's.

A step whose gradients are not finite keeps the old values, by a selection inside the program. The loss scale stays in
Python: a compiled program asks for it, and reports each step, by an ordered callback. Each costs a call into Python.
After a call of a compiled function that trains, its steps are recorded, and one of them is examined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import io_callback
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from halfstep.keras.loops.base import OwnLoop, Parts
from halfstep.keras.loops.jax_gradients import Gradients
from halfstep.keras.recording.products_jax import shapes_of
from halfstep.keras.step import Seen
from halfstep.takeover.patches import Method, Patches

UNSCALED = (
    "a step was made with gradients that no jax.grad or jax.value_and_grad of this program gave after Keras was "
    "imported: its loss was not scaled; import keras first, and take the names from jax after it"
)
UNGUARDED = (
    "ended without a step of an optimizer of Keras's: what else the gradients of jax.grad went into (optax, an update "
    "by hand) is neither guarded nor recorded; use an optimizer of Keras's, or compile and fit"
)


class JaxLoop(OwnLoop):
    """Every gradient, and every step outside of Keras's own training."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._scale = parts.recipe.loss_scale
        self._calls: list[Program] = []
        self._gradients = Gradients(self._guards, self._step, self._runtime, self._ask, self._add_loss)
        self._loss: float | None = None
        self._rows: list[Seen] = []

    def install(self, patches: Patches) -> None:
        self._gradients.install(patches)
        for cls in (BaseOptimizer, LossScaleOptimizer):
            patches.wrap(cls, "stateless_apply", self._stateless_apply)
            patches.wrap(cls, "apply", self._outermost(self._eager))
        patches.wrap(jax, "jit", self._jit)
        patches.wrap(keras.metrics.Mean, "update_state", self._update_state)

    @property
    def no_step(self) -> str:
        return UNGUARDED if self._gradients.passes else ""

    def _update_state(self, original: Method) -> Method:
        """In a train_step ``scale_loss`` is given a loss of the gradient's trace, but this metric one of the step's."""

        def update_state(metric: Any, /, values: Any, *args: Any, **kwargs: Any) -> Any:
            if metric.name == "loss":
                self._step.loss_known(values)
            return original(metric, values, *args, **kwargs)

        return update_state

    def _stateless_apply(self, original: Method) -> Method:
        def stateless_apply(
            optimizer: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any
        ) -> Any:
            if self._step.training or self._step.busy:
                return original(optimizer, optimizer_variables, grads, trainable_variables)
            grads, scale = list(grads), self._scaler.scale_of(optimizer, optimizer_variables)
            finite = self._checked(grads, scale)
            with self._step.part_of_loop():
                self._step.begin_apply()
                new = original(optimizer, optimizer_variables, grads, trainable_variables)
            if scale is None and self._guards:
                old = jax.tree.leaves((trainable_variables, optimizer_variables))
                old = jax.tree.unflatten(jax.tree.structure(new), old)
                new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
            self._stepped(optimizer, finite, scale)
            return new

        return stateless_apply

    def _eager(self, optimizer: Any, apply: Callable[[], None], grads: Sequence[Any], variables: Any) -> None:
        """A step outside of every compiled program: JAX has the values, so a bad step is left out."""
        scale = self._scaler.scale_of(optimizer)
        finite = self._checked(grads, scale)
        self._step.begin_apply()
        if finite:
            apply()
        self._stepped(optimizer, finite, scale)

    def _checked(self, grads: Sequence[Any], own_scale: Any) -> Any:
        """Whether a step of an optimizer is to be made; a LossScaleOptimizer, which has a scale, decides by itself."""
        if own_scale is not None or not self._guards:
            return True
        if not self._step.take_pass() and self._scale.guards:
            self._notices.warn(UNSCALED)
        return self._runtime.all_finite(grads)

    def _stepped(self, optimizer: Any, finite: Any, own_scale: Any) -> None:
        if own_scale is not None and self._step.finite is not None:
            finite = self._step.finite
        if not self._is_primary(optimizer):
            return
        scale = 0.0 if own_scale is None else own_scale
        io_callback(self._record, None, jnp.asarray(finite), scale, ordered=True)
        self.stepped = True
        for program in self._calls:
            program.trains = True
        if not self._calls:
            self.close()

    def _jit(self, original: Method) -> Method:
        def jit(*functions: Any, **options: Any) -> Any:
            if not functions and "fun" not in options:
                return lambda function: jit(function, **options)
            return Program(original(*functions, **options), self._call)

        return jit

    def _call(self, program: Program, args: Any, kwargs: Any) -> Any:
        """Call ``program``. If it trains and no other compiled function calls it, its steps are read afterwards."""
        if self._calls or self._step.training:
            return program.original(*args, **kwargs)
        watched = program.trains and self._progress.sampling
        shapes = shapes_of((args, kwargs)) if watched else None  # JAX may reuse the buffers in the call
        self._calls.append(program)
        try:
            result = program.original(*args, **kwargs)
        finally:
            self._calls.pop()
        if shapes is not None:
            self._progress.look_into(program.original, shapes, self._waiting())
        if program.trains:
            self.close()
        return result

    def _ask(self) -> Any:
        return np.float32(self._scale.value)

    def _add_loss(self, loss: Any) -> None:
        self._loss = (self._loss or 0.0) + float(loss)

    def _record(self, finite: Any, own_scale: Any) -> None:
        """Called by the program when it has made a step; ``own_scale`` is 0 where the scale is the recipe's."""
        own = float(own_scale)
        self._rows.append(Seen(self._loss, own or self._scale.value, bool(finite)))
        self._loss = None
        if not own:
            self._scale = self._scale.next(bool(finite))

    def _waiting(self) -> int:
        """How many steps were made that are not in the record yet. Waits for the callbacks of compiled programs."""
        jax.effects_barrier()
        return len(self._rows)

    def close(self) -> None:
        if self._waiting():
            rows, self._rows = self._rows, []
            self._progress.loop_stepped(rows, self.optimizer)


class Program:
    """A compiled function; all but the call is that of the function which ``jax.jit`` returned."""

    def __init__(self, original: Any, call: Callable[[Program, Any, Any], Any]) -> None:
        self.original = original
        self.trains = False
        self._call = call
        functools.update_wrapper(self, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self, args, kwargs)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else MethodType(self, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)
