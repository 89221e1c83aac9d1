"""Lets TorchScript find PyTorch's own functions, which it knows by identity, where halfstep's stand in their places.

TorchScript compiles a function from its source, and it cannot compile halfstep's. So code that it compiles calls
nothing that halfstep has replaced. Autocast and kernels, on which most recipes rest, are in force in it; dtypes that it
names (``dtype=torch.bfloat16``) stay.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import _jit_internal
from torch.jit import _builtins, _recursive
from torch.jit._script import RecursiveScriptModule

from halfstep.pytorch.patches import Patches

#: makes a call, given as a function of the module and its arguments, with the module, arguments and keyword arguments
Call = Callable[[Callable[..., Any], RecursiveScriptModule, Any, Any], Any]


def find_originals(patches: Patches) -> None:
    """Let TorchScript find PyTorch's functions and methods where halfstep has replaced them."""
    patches.wrap_each(_jit_internal, ("get_closure",), _of_original)
    patches.wrap_each(_builtins, ("_find_builtin",), _of_original)
    patches.wrap_each(_recursive, ("try_compile_fn",), _of_original)


def call_methods(call: Call, patches: Patches) -> None:
    """Let ``call`` make calls of a compiled model's methods beside ``forward``: their layers are called in C++."""

    def replace(module: RecursiveScriptModule) -> None:
        for name, found in vars(module).items():
            if isinstance(found, torch._C.ScriptMethod) and name != "forward" and not name.startswith("__"):
                vars(module)[name] = _Method(found, module, call)

    def compiling(compile: Callable[..., Any]) -> Callable[..., Any]:
        def create_script_module_impl(*args: Any, **kwargs: Any) -> Any:
            module = compile(*args, **kwargs)
            replace(module)
            return module

        return create_script_module_impl

    def looking_up(look_up: Callable[..., Any]) -> Callable[..., Any]:
        def __getattr__(module: RecursiveScriptModule, name: str) -> Any:
            found = look_up(module, name)  # of a loaded model; it keeps a method that it has found
            if not isinstance(found, torch._C.ScriptMethod):
                return found
            replace(module)
            return vars(module).get(name, found)

        return __getattr__

    patches.wrap(_recursive, "create_script_module_impl", compiling)
    patches.wrap(RecursiveScriptModule, "__getattr__", looking_up)


class _Method:
    """A method of a compiled model, with all attributes that TorchScript's own object has."""

    def __init__(self, method: Any, module: RecursiveScriptModule, call: Call) -> None:
        self._method, self._module, self._call = method, module, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._of_module, self._module, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def _of_module(self, module: RecursiveScriptModule, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)


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
