"""Finds casts by which a model with fp32 weights computes in 16 bits, as in ``F.linear(x.bfloat16(), w.to(x))``.

Under an fp32 recipe such a cast is not applied. A program without one in its first step pays nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from halfstep.pytorch.devices import device_types
from halfstep.pytorch.products.dispatcher import Overrides, exists, own_kernel
from halfstep.pytorch.weights.named import each, is_in_a_model, is_narrow_dtype, unnarrowed

#: operations on a tensor that take a dtype
_CASTS = (
    *("to.dtype", "to.device", "to.dtype_layout"),
    *("sum", "sum.dim_IntList", "mean", "mean.dim", "prod", "prod.dim_int", "cumsum", "cumprod"),
    *("softmax.int", "log_softmax.int", "linalg_vector_norm"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
)


class Casts:
    """The kernels, until :meth:`remove`.

    Args:
        found: called with a 16-bit dtype that a model casts to.

    Attributes:
        met: whether there was such a cast.
    """

    def __init__(self, found: Callable[[torch.dtype], None]) -> None:
        self.met = False
        self._found = found
        self._overrides = Overrides()
        for key in (f"Autograd{device.upper()}" for device in device_types()):
            for name in filter(exists, _CASTS):
                self._overrides.put(name, key, self._kernel(own_kernel(name, key)))

    def remove(self) -> None:
        """Take the kernels away."""
        self._overrides.remove()

    def _kernel(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            named = next(filter(is_narrow_dtype, (*args[1:], *kwargs.values())), None)
            if named is not None and is_in_a_model():
                self.met = True
                self._found(named)
                args, kwargs = each(unnarrowed, args, kwargs)
            return own(keyset, _as_tensor(args[0]), *args[1:], **kwargs)

        return kernel


def _as_tensor(first: Any) -> Any:
    """``first`` as a tensor: PyTorch may pass an operand that is a number, as for ``x * 0.5`` under ``vmap``."""
    return first if isinstance(first, torch.Tensor) else torch.tensor(first, dtype=_EXACT[type(first)])


#: the dtypes that hold a number of Python exactly
_EXACT = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}
