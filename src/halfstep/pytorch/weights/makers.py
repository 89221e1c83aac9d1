"""PyTorch's functions that make a tensor: a 16-bit dtype that the program names is float32.

Kernels do not see all of them: ``torch.empty`` is what PyTorch's operations call for their results, ``torch.tensor``
is no operation, and compiled code outside of models calls what its graph names. So they are replaced where Python code
finds them.
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

#: constructors of tensors by their types, as programs of long ago call them: a type cannot be wrapped
_TYPES = ("HalfTensor", "BFloat16Tensor")

#: modules that call what stands in a graph, as Dynamo puts ``torch.tensor`` there for ``x.new_tensor``
_RUN_GRAPHS = ("torch._dynamo.utils", "torch.fx.interpreter")


def replace(patches: Patches) -> None:
    """From now on what the program makes with them is float32 where it would be 16-bit."""
    wrap_functions(_FUNCTIONS, _making, patches)
    for module in (torch, torch.cuda):
        for name in _TYPES:
            patches.set(module, name, module.FloatTensor)
    patches.wrap(Tensor, "new_tensor", lambda original: _making(original, of_pytorch=True))


def _making(original: Callable[..., Any], of_pytorch: bool = False) -> Callable[..., Any]:
    """``of_pytorch``: also where PyTorch's own code in Python calls it."""

    def make(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_narrow_dtype, (*args, *kwargs.values()))) and (
            replaced() and (of_pytorch or torch.compiler.is_dynamo_compiling() or _asked_by_others())
        ):
            args, kwargs = each(unnarrowed, args, kwargs)
        return original(*args, **kwargs)

    return make


def _asked_by_others() -> bool:
    """Not by PyTorch's own code in Python; what runs a graph node by node runs the program's."""
    caller = Caller.of(sys._getframe(2))
    return caller.is_script or caller.module in _RUN_GRAPHS
