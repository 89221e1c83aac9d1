"""TorchScript compiles functions by their source, and knows PyTorch's own by identity: it is to find PyTorch's.

Where one of halfstep's stands in the place of a function of PyTorch's, a script would be told to compile ours, which it
cannot. Compiled code calls nothing that is replaced: autocast and kernels are in force in it, by which most recipes
are, and of what is named in it (``dtype=torch.bfloat16``) nothing is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import _jit_internal
from torch.jit import _builtins, _recursive

from halfstep.pytorch.patches import Patches


def find_originals(patches: Patches) -> None:
    """Let TorchScript find PyTorch's functions and methods, wherever others stand in their places."""
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
