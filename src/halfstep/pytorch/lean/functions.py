"""Functions and other tensors' methods that a program calls with a parameter outside of models: they get fp32.

In ``average.lerp_(parameter, 0.1)`` and ``torch.zeros_like(parameter)`` the program calls no method of the parameter,
so the methods that writes.py replaces do not see the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.writes import Wide
from halfstep.pytorch.patches import Patches, wrap_functions

#: functions that make a tensor of a parameter's dtype: a program's momentum or average, for instance
_LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like")

#: functions with which programs average and check weights, and those that PyTorch lacks for bf16
_READS = ("abs", "allclose", "equal", "isclose", "lerp", "norm", "quantile", "topk")
_LINALG = (
    "cond", "eigh", "eigvalsh", "matrix_norm", "matrix_rank", "norm", "pinv", "qr", "svd", "svdvals", "vector_norm",
)  # fmt: skip

#: methods of a tensor that take a parameter as an argument
_METHODS = (
    "__iadd__", "__isub__", "add", "add_", "allclose", "copy_", "dot", "equal", "lerp", "lerp_", "sub", "sub_",
)  # fmt: skip


def install(masters: Masters, patches: Patches) -> None:
    """Replace them; to be called before the parameter's own methods are replaced, which call a tensor's."""

    def of_fp32(original: Callable[..., Any], first: int = 0) -> Callable[..., Any]:
        """Show the arguments from place ``first`` on as fp32."""

        def function(*args: Any, **kwargs: Any) -> Any:
            if not kwargs and nn.Parameter not in map(type, args[first:]):  # most calls, and fast
                return original(*args)
            if is_compiling() or masters.stepping or place() is not OUTSIDE:
                return original(*args, **kwargs)
            shown = [value if i < first else _fp32(masters, value) for i, value in enumerate(args)]
            return original(*shown, **{name: _fp32(masters, value) for name, value in kwargs.items()})

        return function

    wrap_functions((*_LIKE, *_READS), of_fp32, patches)
    patches.wrap_each(torch.linalg, _LINALG, of_fp32)
    patches.wrap_each(Tensor, _METHODS, lambda original: of_fp32(original, first=1))


def _fp32(masters: Masters, value: Any) -> Any:
    """``value``, or the fp32 numbers of a parameter that is bf16."""
    if type(value) is not nn.Parameter or (master := masters.of(value)) is None or master.is_wide:
        return value
    if torch.is_grad_enabled() and value.requires_grad:
        return Wide.apply(value, masters, master)  # type: ignore[no-untyped-call]
    return masters.show(master)
