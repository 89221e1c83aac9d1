"""TensorFlow loops of the script's own: ``tf.GradientTape`` and ``optimizer.apply_gradients``, eager or in tf.function.

Under a loss scale S, ``tape.gradient`` starts its backward pass from S instead of 1 and divides the gradients by S
(a power of two, so exact in fp32). An optimizer's ``apply`` with gradients that are not finite is left out, by
``tf.cond`` inside a graph. What lasts from step to step is in variables of TensorFlow that are made outside of every
graph. One of them holds a row of numbers per step until the call of the graph has returned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from halfstep.errors import Unsupported
from halfstep.keras.dtypes import LARGEST_FP16
from halfstep.keras.loops.base import OwnLoop, Parts
from halfstep.keras.step import Seen
from halfstep.precisions.loss_scale import DynamicScale, LossScale
from halfstep.takeover.identity import IdentitySet
from halfstep.takeover.patches import Method, Patches

#: how many rows one call of a graph can leave; a longer loop inside of a graph leaves its last rows
ROWS = 4096


class State:
    """What lasts from step to step. Made when first needed: before, the script may have to configure TensorFlow."""

    def __init__(self, scale: LossScale) -> None:
        self._recipe = scale
        self.scale = _variable(scale.value, tf.float32)
        self.finite_steps = _variable(0, tf.int64)
        self.loss = _variable(0.0, tf.float32)
        self.steps = _variable(0, tf.int64)
        self.rows = _variable([[0.0, 1.0, 1.0]] * ROWS, tf.float32)

    def move(self, finite: Any, primary: bool) -> None:
        """The scale for the next step, as :meth:`LossScale.next` has it; only ``primary`` optimizers count growth."""
        if not isinstance(self._recipe, DynamicScale):
            return
        scale, count = self._recipe.next_of(tf, self.scale, self.finite_steps, finite, primary)
        self.scale.assign(scale)
        self.finite_steps.assign(count)

    def row(self, scale: Any, finite: Any) -> None:
        """Leave the step's loss, scale and finiteness for the recorder."""
        values = tf.stack([self.loss, tf.cast(scale, tf.float32), tf.cast(finite, tf.float32)])
        self.rows.scatter_nd_update([[self.steps % ROWS]], [values])
        self.steps.assign_add(1)
        self.loss.assign(0.0)


def _variable(value: Any, dtype: Any) -> Any:
    return tf.Variable(value, dtype=dtype, trainable=False)


class TapeLoop(OwnLoop):
    """Every tape, and every step outside of Keras's own training."""

    framework = "tensorflow"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._loss_scale = parts.recipe.loss_scale
        self._made_state: State | None = None
        self._has_loss = False
        self._calls: list[Any] = []
        self._training: IdentitySet[Any] = IdentitySet()
        self._written = 0

    def install(self, patches: Patches) -> None:
        patches.wrap(tf.GradientTape, "__enter__", self._enter)
        patches.wrap(tf.GradientTape, "gradient", self._gradient)
        patches.wrap(BaseOptimizer, "apply", self._outermost(self._guarded))
        patches.wrap(LossScaleOptimizer, "apply", self._outermost(self._by_itself))
        patches.wrap(polymorphic_function.Function, "__call__", self._call)

    @property
    def _state(self) -> State:
        """The variables, made on first use."""
        if self._made_state is None:
            with tf.init_scope():
                self._made_state = State(self._loss_scale)
        return self._made_state

    def _enter(self, original: Method) -> Method:
        def __enter__(tape: Any) -> Any:
            self._statistics.keep()
            return original(tape)

        return __enter__

    def _gradient(self, original: Method) -> Method:
        def gradient(
            tape: Any, /, target: Any, sources: Any, output_gradients: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            scale = self._scale_for(target)
            self._begin_pass(target)
            if scale is None or output_gradients is not None:
                return original(tape, target, sources, output_gradients, *args, **kwargs)
            seeds = tf.nest.map_structure(lambda t: tf.ones_like(t) * tf.cast(scale, t.dtype), target)
            found = original(tape, target, sources, seeds, *args, **kwargs)
            inverse = 1.0 / scale
            return tf.nest.map_structure(lambda g: _times(g, inverse), found, expand_composites=False)

        return gradient

    def _scale_for(self, target: Any) -> Any:
        """The scale of a backward pass from ``target``; None where Keras has scaled it, or nothing does."""
        targets = tf.nest.flatten(target)
        floating = all(hasattr(t, "dtype") and t.dtype.is_floating for t in targets)
        if not self._guards or self._step.loss_scaled or not floating:
            return None
        in_train_step = self._step.within.seen
        scale = tf.identity(self._state.scale) if in_train_step is None else in_train_step.scale
        if scale is None:
            return None
        if any(t.dtype == tf.float16 for t in targets):
            scale = tf.minimum(scale, LARGEST_FP16)
        return scale

    def _begin_pass(self, target: Any) -> None:
        """A scalar that the script differentiates is its loss; the losses of several passes before one step add up."""
        losses = [t for t in tf.nest.flatten(target) if hasattr(t, "shape") and t.shape.rank == 0]
        if not losses or self._step.loss_scaled:
            return
        if self._step.training:
            self._step.loss_known(losses[0])
            return
        self._has_loss = True
        for loss in losses:
            self._state.loss.assign_add(tf.cast(loss, tf.float32))

    def _guarded(
        self, optimizer: Any, apply: Callable[[], None], grads: Sequence[Any], variables: Any
    ) -> None:
        if not optimizer.built and variables is not None:
            with tf.init_scope():
                optimizer.build(variables)
            optimizer.built = True
        primary = self._is_primary(optimizer)
        finite: Any = True
        scale = tf.identity(self._state.scale)
        if self._guards:
            _refuse_replicas()
            finite = self._runtime.all_finite(grads)
            tf.cond(finite, lambda: _done(apply), lambda: tf.constant(0))
            self._state.move(finite, primary)
            self._statistics.restore(finite)
        else:
            apply()
        if primary:
            self._record(scale, finite)

    def _by_itself(
        self, optimizer: Any, apply: Callable[[], None], grads: Sequence[Any], variables: Any
    ) -> None:
        """A LossScaleOptimizer that the script made steps as Keras has it; its step is recorded."""
        scale = self._scaler.scale_of(optimizer)
        scale = tf.identity(1.0 if scale is None else scale)
        self._step.begin_apply()
        apply()
        if self._is_primary(optimizer):
            finite = self._step.finite
            self._record(scale, True if finite is None else finite)

    def _record(self, scale: Any, finite: Any) -> None:
        self._state.row(scale, finite)
        self.stepped = True
        self._progress.sample.trace_begins()
        if tf.executing_eagerly():
            self._read()
        else:
            self._training.update(self._calls)

    def _call(self, original: Method) -> Method:
        """After the outermost call of a graph that trains, the rows of its steps are read."""

        def __call__(function: Any, /, *args: Any, **kwargs: Any) -> Any:
            outermost = not self._calls and not self._step.training and tf.executing_eagerly()
            sampled = outermost and self.stepped and self._progress.sampling
            self._calls.append(function)
            try:
                if sampled:
                    call = functools.partial(original, function)
                    result = self._progress.sampled_call(call, args, kwargs)
                else:
                    result = original(function, *args, **kwargs)
            finally:
                self._calls.pop()
            if outermost and function in self._training:
                self._read()
            return result

        return __call__

    def _read(self) -> None:
        """Record the steps whose rows were written since the last time."""
        steps = int(self._state.steps)
        new = steps - self._written
        if not new:
            return
        kept = min(new, ROWS)
        rows = self._state.rows.numpy()[[i % ROWS for i in range(steps - kept, steps)]]
        self._written = steps
        seen = [
            Seen(float(loss) if self._has_loss else None, float(scale), bool(finite))
            for loss, scale, finite in rows
        ]
        self._progress.loop_stepped(seen, self.optimizer)


def _done(apply: Callable[[], None]) -> Any:
    apply()
    return tf.constant(0)


def _times(gradient: Any, factor: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _refuse_replicas() -> None:
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        raise Unsupported(
            f"A loss scale in a GradientTape loop over {replicas} replicas is not possible; use compile and fit, "
            "or a precision without a loss scale, such as bf16."
        )
