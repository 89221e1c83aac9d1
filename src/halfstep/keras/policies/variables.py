"""Variables that a script makes in 16 bits (``add_weight(dtype=…)``, ``keras.Variable``) are stored as the recipe says.

A value that is given in 16 bits, by an array or a file, is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common.variables import Variable
from keras.src.dtype_policies.dtype_policy import DTypePolicy

from halfstep.keras.policies.policy import SIXTEEN, Note, policy_of
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Patches

Method = Callable[..., Any]


class Weights:
    """The constructor of every variable of Keras's.

    Args:
        recipe: the precision.
        note: told where the script asks for 16 bits that are not the recipe's.
    """

    def __init__(self, recipe: Recipe, note: Note) -> None:
        self._as_is = recipe.as_is
        self._note = note
        self._stored = DTypePolicy(policy_of(recipe)).variable_dtype

    def install(self, patches: Patches) -> None:
        """See every variable that is made."""
        patches.wrap(Variable, "__init__", self._init)

    def _init(self, original: Method) -> Method:
        def __init__(
            variable: Any,
            initializer: Any,
            shape: Any = None,
            dtype: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            asked = _named(getattr(initializer, "dtype", None) if dtype is None else dtype)
            if asked in SIXTEEN and asked != self._usual():
                self._note(f"Variable(dtype={asked!r})")
                dtype = dtype if self._as_is else self._stored
            original(variable, initializer, shape, dtype, *args, **kwargs)

        return __init__

    def _usual(self) -> str:
        """The dtype of weights for which nobody asks."""
        return str(keras.config.dtype_policy().variable_dtype) if self._as_is else self._stored


def _named(dtype: Any) -> str | None:
    """The name of a dtype of any framework; None for what is none, or text that names no number."""
    try:
        return None if dtype is None else str(keras.backend.standardize_dtype(dtype))
    except (TypeError, ValueError):
        return None
