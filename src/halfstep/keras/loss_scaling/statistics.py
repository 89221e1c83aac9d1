"""Running statistics, such as BatchNormalization's, stay as they were in a step that is skipped.

A layer adds them to its weights as not trainable and assigns to them in its forward pass, so that an overflow there
has reached them by the time that the optimizer is kept from stepping.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from halfstep.keras.backends import base as backend
from halfstep.takeover.patches import Patches


class NullStatistics:
    """No step is ever skipped."""

    def keep(self) -> None:
        """A step begins."""

    def restore(self, finite: Any) -> None:
        """It is over."""

    def selected(self, model: Any, finite: Any, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        """On JAX: the values of the model's variables that are not trainable, after the step."""
        return list(new)


class Statistics(NullStatistics):
    """Copies of the running statistics from the start of a step: one small copy a layer that has some."""

    def __init__(self, patches: Patches) -> None:
        self._variables: dict[int, weakref.ref[Any]] = {}
        self._copies: list[tuple[weakref.ref[Any], Any]] = []
        self._over = True
        patches.wrap(keras.Layer, "add_weight", self._add_weight)

    def _add_weight(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def add_weight(layer: Any, *args: Any, **kwargs: Any) -> Any:
            variable = original(layer, *args, **kwargs)
            if not variable.trainable and keras.backend.is_float_dtype(variable.dtype):
                self._variables[id(variable)] = weakref.ref(variable)
            return variable

        return add_weight

    def keep(self) -> None:
        if not self._over:
            return
        self._over = False
        alive = [(ref, ref()) for ref in self._variables.values()]
        self._copies = [(ref, backend.copied(v.value)) for ref, v in alive if v is not None]

    def restore(self, finite: Any) -> None:
        self._over = True
        for ref, old in self._copies:
            variable = ref()
            if variable is not None and _reachable(old):
                # Selected, not multiplied by zero: what was poisoned may be NaN.
                variable.assign(ops.where(finite, variable.value, old))

    def selected(self, model: Any, finite: Any, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        return [
            ops.where(finite, after, before) if id(variable) in self._variables else after
            for variable, after, before in zip(model.non_trainable_variables, new, old, strict=True)
        ]


def _reachable(tensor: Any) -> bool:
    """Whether a copy can be used here: in TensorFlow it may belong to the graph of another function."""
    graph = getattr(tensor, "graph", None) if backend.name() == "tensorflow" else None
    if graph is None:
        return True
    import tensorflow as tf

    inner: Any = tf.compat.v1.get_default_graph()
    while inner is not None and inner is not graph:
        inner = getattr(inner, "outer_graph", None)
    return inner is graph
