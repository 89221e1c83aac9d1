"""What a GradientTape loop keeps from step to step: variables of TensorFlow, which can be used inside of a graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from halfstep.precisions.loss_scale import DynamicScale, LossScale

#: how many rows one call of a graph can leave; a longer loop inside of a graph leaves its last rows
ROWS = 4096


class State:
    """Made when first needed, because the script may still have to configure TensorFlow before."""

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
