"""Functions of PyTorch that make a tensor make a float32 one where the program names a 16-bit dtype.

Kernels would not do for all of them: PyTorch's operations call ``torch.empty`` for their results, ``torch.tensor`` is
no operation, and compiled code outside of models calls the functions that its graph names. So the functions are
replaced where Python code finds them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.callers import Caller
from halfstep.pytorch.patches import Patches, wrap_functions
from halfstep.pytorch.weights.named import each, is_narrow_dtype, replaced, unnarrowed

_FUNCTIONS = (
    *("empty", "empty_strided", "empty_permuted", "tensor", "as_tensor", "asarray", "scalar_tensor"),
    *("zeros", "ones", "full", "eye", "arange", "linspace", "logspace"),
    *("rand", "randn", "randint", "randperm", "normal", "sparse_coo_tensor", "sparse_csr_tensor"),
)

#: old constructors of tensors by their types, such as torch.HalfTensor; a type cannot be wrapped
_TYPES = ("HalfTensor", "BFloat16Tensor")

#: modules that call functions for a graph: Dynamo puts ``torch.tensor`` there for ``x.new_tensor``
_RUN_GRAPHS = ("torch._dynamo.utils", "torch.fx.interpreter")


def replace(patches: Patches) -> None:
    """Replace them: from now on they make float32 tensors where the program asks for 16-bit ones."""
    wrap_functions(_FUNCTIONS, _making, patches)
    for module in (torch, torch.cuda):
        for name in _TYPES:
            patches.set(module, name, module.FloatTensor)
    patches.wrap(Tensor, "new_tensor", lambda original: _making(original, of_pytorch=True))


def _making(original: Callable[..., Any], of_pytorch: bool = False) -> Callable[..., Any]:
    """The function in place of ``original``; ``of_pytorch``: also for calls by PyTorch's own Python code."""

    def make(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_narrow_dtype, (*args, *kwargs.values()))) and (
            replaced() and (of_pytorch or torch.compiler.is_dynamo_compiling() or _asked_by_others())
        ):
            args, kwargs = each(unnarrowed, args, kwargs)
        return original(*args, **kwargs)

    return make


def _asked_by_others() -> bool:
    """Whether the call does not come from PyTorch's own Python code, except from code that runs a graph's nodes."""
    caller = Caller.of(sys._getframe(2))
    return caller.is_script or caller.module in _RUN_GRAPHS
