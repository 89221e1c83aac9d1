"""Running statistics, such as BatchNormalization's, stay as they were in a step that is skipped.

A layer has them as weights that are not trainable and assigns to them in its forward pass. So an overflow in the
forward pass is already in them when the optimizer's step is skipped.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from halfstep.keras.runtime import Runtime
from halfstep.takeover.patches import Method, Patches


class NullStatistics:
    """No step is ever skipped."""

    def keep(self) -> None:
        """A step begins."""

    def restore(self, finite: Any) -> None:
        """A step is over: where it was not ``finite``, undo what it did to the statistics."""

    def selected(self, model: Any, finite: Any, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        """On JAX: the values of the model's variables that are not trainable, after the step."""
        return list(new)


class Statistics(NullStatistics):
    """Copies of the running statistics from the start of a step: small ones, for each layer that has any."""

    def __init__(self, runtime: Runtime, patches: Patches) -> None:
        self._runtime = runtime
        self._variables: dict[int, weakref.ref[Any]] = {}
        self._copies: list[tuple[weakref.ref[Any], Any]] = []
        self._over = True
        patches.wrap(keras.Layer, "add_weight", self._add_weight)

    def _add_weight(self, original: Method) -> Method:
        def add_weight(layer: Any, /, *args: Any, **kwargs: Any) -> Any:
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
        self._copies = [(ref, self._runtime.copied(v.value)) for ref, v in alive if v is not None]

    def restore(self, finite: Any) -> None:
        self._over = True
        for ref, old in self._copies:
            variable = ref()
            if variable is not None and self._runtime.reachable(old):
                # A selection, not a product with zero: the new value may be NaN.
                variable.assign(ops.where(finite, variable.value, old))

    def selected(self, model: Any, finite: Any, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        return [
            ops.where(finite, after, before) if id(variable) in self._variables else after
            for variable, after, before in zip(model.non_trainable_variables, new, old, strict=True)
        ]
