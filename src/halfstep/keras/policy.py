"""The dtype policy that the recipe means, in force before the first layer is made; the script's own yields to it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import keras
from keras.src.dtype_policies import dtype_policy as policies

from halfstep.errors import UsageError
from halfstep.patches import Patches
from halfstep.recipes import Recipe

Note = Callable[[str], None]

_DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def policy_of(recipe: Recipe) -> str:
    """Keras's name for the recipe's dtypes, e.g. ``mixed_float16``; weights in 16 bits are ``float16``.

    What PyTorch emulates beneath Keras it rounds inside float32.
    """
    dtype = _DTYPES.get(recipe.compute, "float32")
    return f"mixed_{dtype}" if recipe.mixed else dtype


def replace_everywhere(original: Any, new: Any, patches: Patches) -> None:
    """Put ``new`` where Keras's public modules hold ``original``: each spelling is a name of its own."""
    for name, module in list(sys.modules.items()):
        if name == "keras" or name.startswith("keras."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patches.set(module, attribute, new)


def set_policy(recipe: Recipe, note: Note, patches: Patches) -> None:
    """Set the recipe's policy for good: calls of the script's that set another one are noted, and do nothing."""
    original = policies.set_dtype_policy
    if not recipe.as_is:
        original(policy_of(recipe))

    def set_dtype_policy(policy: Any) -> None:
        asked = getattr(policy, "name", policy)
        if isinstance(asked, str) and "16" in asked:
            note(f"set_dtype_policy({asked!r})")
        if recipe.as_is:
            original(policy)

    set_dtype_policy.__doc__ = original.__doc__
    replace_everywhere(original, set_dtype_policy, patches)


class Keep:
    """``keep=``: layers whose own names match a pattern are made with the policy ``float32``.

    Args:
        patterns: name patterns (``fnmatch``) of layers: ``head``, ``batch_normalization*``.
        patches: where the wrapped constructor is remembered.
    """

    def __init__(self, patterns: tuple[str, ...], patches: Patches) -> None:
        self._patterns = patterns
        self._missing = set(patterns)
        self._names: list[str] = []
        if patterns:
            patches.wrap(keras.Layer, "__init__", self._init)

    def _init(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(layer: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
            original(layer, *args, dtype=dtype, **kwargs)
            self._names.append(layer.name)
            matching = {pattern for pattern in self._patterns if fnmatchcase(layer.name, pattern)}
            self._missing -= matching
            if matching and dtype is None:
                layer.dtype_policy = "float32"

        return __init__

    def check(self) -> None:
        """After the first step every layer has been made: a pattern that matched nothing is a mistake.

        Raises:
            UsageError: naming the pattern and some of the layers that there are.
        """
        missing, self._missing = self._missing, set()
        if missing:
            names = self._names
            raise UsageError(
                f"keep={','.join(sorted(missing))} matches no layer of this program; "
                f"its layers are {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
            )
