"""A 16-bit dtype that a program's own code names inside its model is float32 where the recipe computes in fp32.

``x.to(torch.bfloat16)``, ``x.half()``, ``x.new_zeros(3, dtype=torch.float16)``, ``x.sum(dtype=torch.bfloat16)`` are
operations on a tensor: kernels at autocast's dispatch keys replace their dtype, in eager and in compiled code. What
makes tensors from nothing (``torch.zeros(3, dtype=torch.bfloat16)``) passes no such key, and is wrapped.

Both act where autocast computes in float32, which only a recipe's region does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.jit import _builtins

from halfstep.pytorch.dtypes import SIXTEEN_BIT, devices_here
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.dispatcher import Overrides, exists, overload

#: operations on a tensor that may be given a dtype
_ON_TENSORS = (
    *("to.dtype", "to.device", "to.dtype_layout", "to.other", "_to_copy", "type_as"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    *("softmax.int", "log_softmax.int", "cumsum", "cumprod", "prod", "prod.dim_int"),
    *("sum", "sum.dim_IntList", "mean", "mean.dim", "linalg_vector_norm"),
)

#: functions of ``torch`` that make tensors
_FACTORIES = (
    *("arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace"),
    *("ones", "rand", "randn", "scalar_tensor", "tensor", "zeros"),
)


def replace(patches: Patches) -> Callable[[], None]:
    """From now on 16-bit dtypes that are named where autocast computes in float32 are float32.

    Args:
        patches: where the replaced functions are remembered.

    Returns:
        what takes the kernels away.
    """
    overrides = Overrides(traced=True)
    for device in devices_here():
        key = f"Autocast{device.upper()}"
        for name in filter(exists, _ON_TENSORS):
            overrides.put(name, key, _kernel(name, device, getattr(torch._C.DispatchKey, key)))
    for name in _FACTORIES:
        original = getattr(torch, name)
        patches.wrap(torch, name, _factory)
        builtin = _builtins._find_builtin(original)
        if builtin is not None:  # TorchScript knows functions by their identity
            _builtins._register_builtin(getattr(torch, name), builtin)
    return overrides.remove


def _kernel(name: str, device: str, key: Any) -> Callable[..., Any]:
    operation, autocast = overload(name), torch._C.DispatchKeySet(key)
    by_example = name in ("to.other", "type_as")
    to_float32 = overload("to.dtype")

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        replaced = torch.get_autocast_dtype(device) is torch.float32
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if not replaced:
                return operation(*args, **kwargs)
            if by_example and args[1].dtype in SIXTEEN_BIT:
                return to_float32(args[0], torch.float32)
            return operation(*map(_unnarrowed, args), **{n: _unnarrowed(v) for n, v in kwargs.items()})

    return kernel


def _factory(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def factory(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("dtype") in SIXTEEN_BIT and _in_fp32_region():
            kwargs["dtype"] = torch.float32
        return original(*args, **kwargs)

    return factory


def _in_fp32_region() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.float32


def _unnarrowed(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in SIXTEEN_BIT else value
