"""What a model returns to the script is float32, so that losses, metrics and NumPy compute as without halfstep.

For probabilities a cast is not enough: those of a softmax do not sum to 1 after they were rounded to bfloat16, and a
sigmoid is rounded to 1 from a logit of 6.3 on. If the last operation of a model is one of these, it is computed again
in float32, from the same 16-bit logits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import keras
from keras.src import backend
from keras.src.backend import get_keras_mask, set_keras_mask

from halfstep.keras.dtypes import SIXTEEN, dtype_name
from halfstep.takeover.patches import Method, Patches

_PROBABILITIES = ("softmax", "log_softmax", "sigmoid")

#: how many results of such operations are remembered while a model is called; it may have several outputs
_HELD = 4


class Results:
    """The results of the outermost call of a layer."""

    def __init__(self) -> None:
        self._last: deque[tuple[Any, Callable[[], Any]]] = deque(maxlen=_HELD)

    def install(self, patches: Patches) -> None:
        """Remember the operations that may be a model's last."""
        for name in _PROBABILITIES:
            patches.wrap(backend.nn, name, self._remembered)

    def in_float32(self, values: Any) -> Any:
        """``values`` with every 16-bit tensor as float32, in the same containers; symbolic tensors stay as they are."""
        wide = keras.tree.map_structure(self._in_float32, values)
        self._last.clear()
        return wide

    def _in_float32(self, value: Any) -> Any:
        if not backend.is_tensor(value) or dtype_name(value.dtype) not in SIXTEEN:
            return value
        again = next((again for result, again in self._last if result is value), None)
        wide = keras.ops.cast(value, "float32") if again is None else again()
        mask = get_keras_mask(value)
        if mask is not None:
            set_keras_mask(wide, mask)
        return wide

    def _remembered(self, original: Method) -> Method:
        def probabilities(x: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(x, *args, **kwargs)
            if backend.is_tensor(result) and dtype_name(result.dtype) in SIXTEEN:
                self._last.append((result, lambda: original(backend.cast(x, "float32"), *args, **kwargs)))
            return result

        return probabilities
