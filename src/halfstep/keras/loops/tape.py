"""TensorFlow loops of the script's own: ``tf.GradientTape`` and ``optimizer.apply_gradients``, eager or in tf.function.

Under a loss scale S, ``tape.gradient`` starts its backward pass from S in place of 1 and divides what comes out by S
(a power of two, so exact in fp32); an optimizer's ``apply`` with gradients that are not finite is left out, by
``tf.cond`` inside a graph. All that must last from step to step is in variables of TensorFlow, made outside of every
graph; a row of numbers for each step waits in one of them until the call into the graph has returned.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras.optimizers import LossScaleOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from halfstep.errors import Unsupported
from halfstep.keras.loops.tape_state import ROWS, State
from halfstep.keras.recording.recorder import Seen
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]

#: the largest power of two in fp16, for losses that the script computes in it
_LARGEST_FP16 = 2.0**15


class Tapes:
    """Every tape and every optimizer outside of Keras's own training."""

    def __init__(self, takeover: Takeover) -> None:
        self._takeover = takeover
        self._guards = takeover.recipe.guards
        self._state: State | None = None
        self._primary: weakref.ref[Any] | None = None
        self._applying = False
        self._has_loss = False
        self._calls: list[Any] = []
        self._training: weakref.WeakSet[Any] = weakref.WeakSet()
        self._written = 0

    def install(self, patches: Patches) -> None:
        """Scale, guard and record."""
        patches.wrap(tf.GradientTape, "__enter__", self._enter)
        patches.wrap(tf.GradientTape, "gradient", self._gradient)
        patches.wrap(BaseOptimizer, "apply", self._apply)
        patches.wrap(LossScaleOptimizer, "apply", self._apply_scaled)
        patches.wrap(polymorphic_function.Function, "__call__", self._call)

    @property
    def state(self) -> State:
        """The variables, made on first use."""
        if self._state is None:
            with tf.init_scope():
                self._state = State(self._takeover.recipe.loss_scale)
        return self._state

    def _enter(self, original: Method) -> Method:
        def __enter__(tape: Any) -> Any:
            self._takeover.statistics.keep()
            return original(tape)

        return __enter__

    def _gradient(self, original: Method) -> Method:
        def gradient(
            tape: Any, target: Any, sources: Any, output_gradients: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            scale = self._scale_for(target)
            self._saw(target, scale)
            if scale is None or output_gradients is not None:
                return original(tape, target, sources, output_gradients, *args, **kwargs)
            seeds = tf.nest.map_structure(lambda t: tf.ones_like(t) * tf.cast(scale, t.dtype), target)
            found = original(tape, target, sources, seeds, *args, **kwargs)
            inverse = 1.0 / scale
            return tf.nest.map_structure(lambda g: _times(g, inverse), found, expand_composites=False)

        return gradient

    def _scale_for(self, target: Any) -> Any:
        """The scale of a backward pass from ``target``; None where Keras has scaled it, or nothing does."""
        scaler = self._takeover.scaler
        targets = tf.nest.flatten(target)
        floating = all(hasattr(t, "dtype") and t.dtype.is_floating for t in targets)
        if not self._guards or scaler.pending or not floating:
            return None
        model_scale = self._takeover.model_scale()
        if self._takeover.in_train_step and model_scale is None:
            return None
        scale = tf.identity(self.state.scale if model_scale is None else model_scale)
        if any(t.dtype == tf.float16 for t in targets):
            scale = tf.minimum(scale, _LARGEST_FP16)
        return scale

    def _saw(self, target: Any, scale: Any) -> None:
        """A scalar that the script differentiates is its loss; several before one step add up."""
        losses = [t for t in tf.nest.flatten(target) if hasattr(t, "shape") and t.shape.rank == 0]
        if not losses or self._takeover.scaler.pending:
            return
        if self._takeover.training:
            self._takeover.saw_loss(losses[0])
            return
        self._has_loss = True
        for loss in losses:
            self.state.loss.assign_add(tf.cast(loss, tf.float32))

    def _apply(self, original: Method) -> Method:
        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._takeover.training or self._applying:
                original(optimizer, grads, trainable_variables)
                return
            grads = list(grads)
            variables = None if trainable_variables is None else list(trainable_variables)
            self._applying = True
            try:
                self._step(optimizer, lambda: original(optimizer, grads, variables), grads, variables)
            finally:
                self._applying = False

        return apply

    def _step(self, optimizer: Any, step: Callable[[], None], grads: list[Any], variables: Any) -> None:
        """One step of ``optimizer``, left out if its gradients are not finite."""
        if not optimizer.built and variables is not None:
            with tf.init_scope():
                optimizer.build(variables)
            optimizer.built = True
        primary = self._is_primary(optimizer)
        finite: Any = True
        scale = tf.identity(self.state.scale)
        if self._guards:
            _refuse_replicas()
            finite = _all_finite(grads)
            tf.cond(finite, lambda: _done(step), lambda: tf.constant(0))
            self.state.move(finite, primary)
            self._takeover.statistics.restore(finite)
        else:
            step()
        if primary:
            self._record(scale, finite)

    def _apply_scaled(self, original: Method) -> Method:
        """A LossScaleOptimizer that the script made steps as Keras has it; its step is recorded."""

        def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:
            if self._takeover.training or self._applying:
                original(optimizer, grads, trainable_variables)
                return
            scale = self._takeover.scaler.scale_of(optimizer)
            scale = tf.identity(1.0 if scale is None else scale)
            self._takeover.scaler.finite = None
            self._applying = True
            try:
                original(optimizer, grads, trainable_variables)
            finally:
                self._applying = False
            if self._is_primary(optimizer):
                finite = self._takeover.scaler.finite
                self._record(scale, True if finite is None else finite)

        return apply

    def _is_primary(self, optimizer: Any) -> bool:
        """Whether ``optimizer``'s steps are counted: the first that ever stepped."""
        if self._primary is None or self._primary() is None:
            self._primary = weakref.ref(optimizer)
        return self._primary() is optimizer

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are counted."""
        return None if self._primary is None else self._primary()

    def _record(self, scale: Any, finite: Any) -> None:
        self.state.row(scale, finite)
        self._takeover.loop_traced()
        if tf.executing_eagerly():
            self.read()
        else:
            self._training.update(self._calls)

    def _call(self, original: Method) -> Method:
        """After the outermost call into a graph that trains, its steps are read from where they wait."""

        def __call__(function: Any, *args: Any, **kwargs: Any) -> Any:
            if self._calls or self._takeover.training or not tf.executing_eagerly():
                self._calls.append(function)
                try:
                    return original(function, *args, **kwargs)
                finally:
                    self._calls.pop()
            self._calls.append(function)
            try:
                result = self._takeover.progress.loop_call(original, function, args, kwargs)
            finally:
                self._calls.pop()
            if function in self._training:
                self.read()
            return result

        return __call__

    def read(self) -> None:
        """Hand the rows that were left since the last time to the recorder."""
        steps = int(self.state.steps)
        new = steps - self._written
        if not new:
            return
        kept = min(new, ROWS)
        rows = self.state.rows.numpy()[[i % ROWS for i in range(steps - kept, steps)]]
        self._written = steps
        seen = [
            Seen(float(loss) if self._has_loss else None, float(scale), bool(finite))
            for loss, scale, finite in rows
        ]
        self._takeover.progress.loop_stepped(seen)


def _done(step: Callable[[], None]) -> Any:
    step()
    return tf.constant(0)


def _all_finite(grads: list[Any]) -> Any:
    """Whether every gradient is, one flag for all: one pass over them."""
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads if g is not None]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


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
