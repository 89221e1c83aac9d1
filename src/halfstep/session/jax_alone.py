"""A program that trains with JAX alone, without Keras: no step of it can be seen, so a precision is refused at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.takeover.patches import Patches

#: what makes functions that compute gradients
_TRANSFORMS = ("grad", "value_and_grad")


def watch_gradients(jax: ModuleType, called: Callable[[], None]) -> Patches:
    """Call ``called`` before a function that ``jax.grad`` or ``jax.value_and_grad`` has made is called.

    Args:
        called: raises where the program is to end.
    """
    patches = Patches()
    patches.wrap_each(jax, _TRANSFORMS, lambda original: _transform(original, called))
    return patches


def _transform(original: Callable[..., Any], called: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def transform(*args: Any, **kwargs: Any) -> Any:
        gradient = original(*args, **kwargs)

        @functools.wraps(gradient)
        def compute(*inputs: Any, **options: Any) -> Any:
            called()
            return gradient(*inputs, **options)

        return compute

    return transform
