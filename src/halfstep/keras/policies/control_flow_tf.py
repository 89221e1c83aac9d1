"""TensorFlow's loops, branches and arrays, where a script that was written for float32 puts 16-bit results into them.

``tf.while_loop`` and ``tf.map_fn`` need the dtype with which they began, ``tf.cond`` the same dtype from both branches,
and a ``TensorArray`` the dtype that it was made with. But Keras's layers return 16 bits under a recipe. So what a loop
carries or an array holds is cast to its first dtype, and 16-bit results of a branch to float32, which is exact.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import cond as branches
from tensorflow.python.ops import tensor_array_ops
from tensorflow.python.ops import while_loop as loops

from halfstep.keras.policies.operands_tf import dtype_of
from halfstep.takeover.patches import Method, Patches


class ControlFlow:
    """Casts while a loop, a branch or an array is built, in graphs and eagerly.

    Args:
        narrow: the 16-bit dtype in which the recipe computes.
    """

    def __init__(self, narrow: str) -> None:
        self._narrow = tf.dtypes.as_dtype(narrow)

    def install(self, patches: Patches) -> None:
        """Wrap the functions by which TensorFlow makes every loop and branch, and the writes to an array."""
        patches.wrap(loops, "while_loop", self._loop)
        patches.wrap(branches, "cond", self._branch)
        array = tensor_array_ops.TensorArray
        for name, place in (("write", 1), ("unstack", 0), ("scatter", 1), ("split", 0)):
            patches.wrap(array, name, functools.partial(self._writing, place=place))

    def _loop(self, original: Method) -> Method:
        def while_loop(cond: Method, body: Method, loop_vars: Any, *args: Any, **kwargs: Any) -> Any:
            def carrying(*carried: Any) -> Any:
                return self._as(body(*carried), carried)

            return original(cond, carrying, loop_vars, *args, **kwargs)

        return while_loop

    def _branch(self, original: Method) -> Method:
        def cond(pred: Any, true_fn: Any = None, false_fn: Any = None, *args: Any, **kwargs: Any) -> Any:
            return original(pred, self._widening(true_fn), self._widening(false_fn), *args, **kwargs)

        return cond

    def _widening(self, branch: Any) -> Any:
        if not callable(branch):
            return branch
        return lambda: tf.nest.map_structure(lambda leaf: self._to(leaf, tf.float32), branch())

    def _writing(self, original: Method, place: int) -> Method:
        def write(array: Any, /, *args: Any, **kwargs: Any) -> Any:
            written = list(args)
            if len(written) > place:
                written[place] = self._to(written[place], array.dtype)
            elif "value" in kwargs:
                kwargs["value"] = self._to(kwargs["value"], array.dtype)
            return original(array, *written, **kwargs)

        return write

    def _as(self, result: Any, carried: Any) -> Any:
        """The ``result`` of a loop's body in the dtypes of what the body was given."""
        leaves, given = tf.nest.flatten(result), tf.nest.flatten(carried)
        if len(leaves) != len(given):  # TensorFlow itself says what is wrong
            return result
        cast = [self._to(leaf, dtype_of(old)) for leaf, old in zip(leaves, given, strict=True)]
        return tf.nest.pack_sequence_as(result, cast)

    def _to(self, leaf: Any, dtype: Any) -> Any:
        """``leaf`` cast to ``dtype``, if one of their dtypes is the recipe's and the other float32."""
        own = dtype_of(leaf)
        pair = {own, dtype}
        return tf.cast(leaf, dtype) if pair == {self._narrow, tf.float32} else leaf
