"""Operands of 16 and of 32 bits in one operation: TensorFlow raises where PyTorch and JAX promote.

Inside of a layer's ``call`` Keras gives the script 16-bit tensors, but the script's own constants, masks and noise are
float32. An operation that refuses such a pair is called again with the 16-bit operands as float32, so that the result
is that of PyTorch and JAX. Nothing is ever narrowed. It costs nothing where operands agree: TensorFlow asks after it
has failed.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.eager import execute
from tensorflow.python.framework import ops, tensor
from tensorflow.python.util import dispatch

from halfstep.takeover.patches import Method, Patches

_WIDER = (tf.float32, tf.float64)


class Operands(dispatch.GlobalOpDispatcher):  # type: ignore[misc]
    """Asked by TensorFlow after an operation of its own has raised TypeError or ValueError.

    Args:
        narrow: the 16-bit dtype in which the recipe computes.
    """

    def __init__(self, narrow: str) -> None:
        self._narrow = tf.dtypes.as_dtype(narrow)

    def install(self, patches: Patches) -> None:
        """Register with TensorFlow, and allow a 16-bit tensor where float32 is wanted."""
        patches.set(dispatch, "_GLOBAL_DISPATCHERS", [*dispatch._GLOBAL_DISPATCHERS, self])
        patches.wrap(ops, "raise_from_not_ok_status", self._refused)
        patches.wrap(execute, "args_to_matching_eager", self._to_matching)
        patches.wrap(tensor.Tensor, "__tf_tensor__", self._as_tensor)

    def handle(self, op: Method, args: Any, kwargs: Any) -> Any:
        """Call ``op`` again with wider operands, if it was given 16-bit and wider ones."""
        widened = self._widened((args, kwargs))
        return self.NOT_SUPPORTED if widened is None else op(*widened[0], **widened[1])

    def _refused(self, original: Method) -> Method:
        """TensorFlow's fast path for an eager operation failed; if for its dtypes, let it take the slow path."""

        def raise_from_not_ok_status(error: Any, name: Any) -> Any:
            if "was expected to be a" not in error.message:
                original(error, name)
            if (
                "SelectV2" in error.message
            ):  # the slow path would fail: an argument has the name of the exception
                raise TypeError(error.message)

        return raise_from_not_ok_status

    def _to_matching(self, original: Method) -> Method:
        """The slow path: the operands that an eager operation wants to be of one dtype."""

        def args_to_matching_eager(values: Any, /, *args: Any, **kwargs: Any) -> Any:
            return original(self._widened(list(values)) or values, *args, **kwargs)

        return args_to_matching_eager

    def _widened(self, values: Any) -> Any:
        """``values`` with every 16-bit operand as wide as the widest; None where no operand is wider."""
        found = {dtype_of(leaf) for leaf in tf.nest.flatten(values)}
        wide = next((dtype for dtype in reversed(_WIDER) if dtype in found), None)
        if wide is None or self._narrow not in found:
            return None
        return tf.nest.map_structure(
            lambda leaf: tf.cast(leaf, wide) if dtype_of(leaf) == self._narrow else leaf, values
        )

    def _as_tensor(self, original: Method) -> Method:
        def __tf_tensor__(value: Any, dtype: Any = None, name: Any = None) -> Any:
            if dtype in _WIDER and value.dtype == self._narrow:
                return tf.cast(value, dtype)
            return original(value, dtype, name)

        return __tf_tensor__


def dtype_of(leaf: Any) -> Any:
    """The dtype of a tensor or variable; None for anything else."""
    return leaf.dtype if isinstance(leaf, tf.Tensor | tf.Variable) else None
