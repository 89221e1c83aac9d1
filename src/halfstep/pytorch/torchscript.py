"""Lets TorchScript find PyTorch's own functions, which it knows by identity, where halfstep's stand in their places.

TorchScript compiles a function from its source, and it cannot compile halfstep's. So code that it compiles calls
nothing that halfstep has replaced. Autocast and kernels, on which most recipes rest, are in force in it; dtypes that it
names (``dtype=torch.bfloat16``) stay.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import _jit_internal
from torch.jit import _builtins, _recursive

from halfstep.pytorch.patches import Patches


def find_originals(patches: Patches) -> None:
    """Let TorchScript find PyTorch's functions and methods where halfstep has replaced them."""
    patches.wrap_each(_jit_internal, ("get_closure",), _of_original)
    patches.wrap_each(_builtins, ("_find_builtin",), _of_original)
    patches.wrap_each(_recursive, ("try_compile_fn",), _of_original)


def _of_original(look_up: Callable[..., Any]) -> Callable[..., Any]:
    def look_up_original(function: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up(_original(function), *args, **kwargs)

    return look_up_original


def _original(function: Any) -> Any:
    while isinstance(function, FunctionType | MethodType) and hasattr(function, "__wrapped__"):
        if not str(getattr(function, "__globals__", {}).get("__name__")).startswith("halfstep."):
            break
        function = function.__wrapped__
    return function
