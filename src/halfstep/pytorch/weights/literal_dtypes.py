"""A 16-bit dtype that a program's own code names inside its model is float32 where the recipe computes in fp32.

``x.to(torch.bfloat16)``, ``x.half()``, ``x.new_zeros(3, dtype=torch.float16)``, ``x.sum(dtype=torch.bfloat16)`` are
operations on a tensor: kernels at autocast's dispatch keys replace their dtype, in eager and in compiled code, where
autocast computes in float32, inside of a recipe's regions. What makes a tensor from nothing
(``torch.zeros(3, dtype=torch.bfloat16)``) passes no such key: its kernels are at the key that chooses a device.
``torch.tensor`` and ``torch.empty`` give what they are told: PyTorch's own operations call the latter's.

What the program's other code asks for it gets: it may be about to save weights in 16 bits. But what a loss is computed
from, and has a gradient, is not cast to 16 bits there either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.autocast.mixed_operands import of_one_dtype
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, exists, overload, own_kernel

#: operations that make a tensor from another, and may be given a dtype
_MAKING = (
    *("to.dtype", "to.device", "to.dtype_layout", "_to_copy"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
)

#: operations that make a tensor like another, which names the dtype
_BY_EXAMPLE = ("to.other", "type_as")

#: of those, what casts its first argument
_CASTING = frozenset((*_MAKING[:4], *_BY_EXAMPLE))

#: operations that make a tensor from nothing
_FROM_NOTHING = (
    *("zeros", "ones", "full", "eye", "eye.m"),
    *("arange", "arange.start", "arange.start_step", "linspace", "logspace"),
    *("rand", "rand.generator", "randn", "randn.generator", "normal.float_float"),
    *("randint", "randint.generator", "randint.low", "randint.low_generator", "randperm"),
)

#: operations whose 16-bit operands are widened, too: they raise on mixed ones, or round what they sum
_COMPUTING = (
    *("softmax.int", "log_softmax.int", "cumsum", "cumprod", "prod", "prod.dim_int"),
    *("sum", "sum.dim_IntList", "mean", "mean.dim", "linalg_vector_norm"),
    *("layer_norm", "group_norm", "dot"),
)

_to_float32 = overload("to.dtype")


def replace() -> Overrides:
    """From now on 16-bit dtypes that are named where autocast computes in float32 are float32, until ``remove()``."""
    overrides = Overrides("fp32 for dtypes named")
    for device in device_types():
        key = f"Autocast{device.upper()}"
        for name in filter(exists, (*_MAKING, *_BY_EXAMPLE, *_COMPUTING)):
            overrides.put(name, key, _kernel(name, device, getattr(torch._C.DispatchKey, key)))
    for name in filter(exists, _FROM_NOTHING):
        overrides.put(name, "BackendSelect", _from_nothing(own_kernel(name, "BackendSelect")))
    return overrides


def _from_nothing(own: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dtype") in SIXTEEN_BIT and place() is not OUTSIDE and _computes_in_fp32():
            kwargs["dtype"] = torch.float32
        return own(keyset, *args, **kwargs)

    return kernel


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def _computes_in_fp32() -> bool:
    return torch.get_autocast_dtype("cpu") is torch.float32


def _kernel(name: str, device: str, key: Any) -> Callable[..., Any]:
    operation, autocast, change = overload(name), torch._C.DispatchKeySet(key), _change(name)
    computes, casts = name in _COMPUTING, name in _CASTING

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if torch.get_autocast_dtype(device) is not torch.float32:
                return operation(*args, **kwargs)
            if place() is OUTSIDE and not (casts and _has_gradient(args[0])):
                args, kwargs = of_one_dtype(operation, args, kwargs) if computes else (args, kwargs)
                return operation(*args, **kwargs)
            if change is None:
                narrow = args[1].dtype in SIXTEEN_BIT
                return _to_float32(args[0], torch.float32) if narrow else operation(*args, **kwargs)
            return operation(*map(change, args), **{name: change(value) for name, value in kwargs.items()})

    return kernel


def _change(name: str) -> Callable[[Any], Any] | None:
    """What is done to each argument; None where the second one names the dtype."""
    if name in _BY_EXAMPLE:
        return None
    return _widened if name in _COMPUTING else _unnarrowed


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT:
        return _to_float32(value, torch.float32)
    return _unnarrowed(value)


def _unnarrowed(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in SIXTEEN_BIT else value
