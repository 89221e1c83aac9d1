"""Numbers that fp32 code writes into masks, and that a 16-bit tensor cannot hold: -1e9 before a softmax.

In fp16, which ends at 65504, ``scores.masked_fill(mask, -1e9)`` raises; so does fp32's lowest number in bf16, and
``torch.where(mask, scores, -1e9)`` turns it into an infinity. In a region a new tensor is then fp32. A tensor that is
written in place keeps its dtype, and gets the largest number of that dtype, with the sign: an infinity would turn a row
that is masked as a whole into NaN. ``scores[mask] = -1e9`` is not handled: Python's indexing makes a tensor of the
format, with an infinity in it, before it calls any operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch._C._functorch import is_functorch_wrapped_tensor as _is_wrapped

from halfstep.pytorch.autocast.mixed_operands import KEYS
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, overload

#: operations that put numbers into a new tensor or their first argument -> the places of the tensors whose format the
#: result has, and the places of the numbers, among their arguments. ``clamp_min`` is left out: ``relu`` calls it, and a
#: kernel in Python would add 40 us to each of these calls.
WRITES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **dict.fromkeys(("masked_fill.Scalar", "masked_fill_.Scalar"), ((0,), (2,))),
    **dict.fromkeys(("masked_fill.Tensor", "masked_fill_.Tensor"), ((0,), (2,))),
    **dict.fromkeys(("index_fill.int_Scalar", "index_fill_.int_Scalar"), ((0,), (3,))),
    **dict.fromkeys(("scatter.value", "scatter_.value"), ((0,), (3,))),
    **dict.fromkeys(("fill.Scalar", "fill_.Scalar", "full_like"), ((0,), (1,))),
    **dict.fromkeys(("constant_pad_nd", "new_full"), ((0,), (2,))),
    **dict.fromkeys(("clamp", "clamp_", "hardtanh", "hardtanh_", "threshold", "threshold_"), ((0,), (1, 2))),
    "where.ScalarOther": ((1,), (2,)),
    "where.ScalarSelf": ((2,), (1,)),
    "where.self": ((1, 2), (1, 2)),
}


def hold(devices: Iterable[str]) -> Overrides:
    """Put the kernels at autocast's key of ``devices``; returns what takes them away again."""
    overrides = Overrides()
    for key in (KEYS[device] for device in devices if device in KEYS):
        for name, (tensors, numbers) in WRITES.items():
            overrides.put(name, key, _kernel(overload(name), key, tensors, numbers))
    return overrides


def _kernel(
    operation: Any, key: str, tensors: tuple[int, ...], numbers: tuple[int, ...]
) -> Callable[..., Any]:
    keys = DispatchKeySet(getattr(DispatchKey, key))

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            low = [i for i in tensors if _is_narrow(args[i])]
            if low and kwargs.get("dtype") is None:
                largest = torch.finfo(args[low[0]].dtype).max
                if beyond := [i for i in numbers if i < len(args) and _is_beyond(args[i], largest)]:
                    args = _held(operation, args, low, beyond, largest)
            return operation(*args, **kwargs)

    return kernel


def _held(
    operation: Any, args: tuple[Any, ...], low: list[int], beyond: list[int], largest: float
) -> tuple[Any, ...]:
    """Arguments with which the numbers are held: by fp32 tensors, or in place as the largest of the format."""
    if operation._schema.is_mutable:
        return tuple(_limited(arg, largest) if i in beyond else arg for i, arg in enumerate(args))
    return tuple(arg.float() if i in low else arg for i, arg in enumerate(args))


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT and value.dim() > 0


def _is_beyond(number: Any, largest: float) -> bool:
    """Whether a number, or a tensor of one number that the host has, is finite and larger than ``largest``."""
    if type(number) is Tensor and number.dim() == 0 and number.is_cpu and not _is_wrapped(number):
        number = number.item()
    if not isinstance(number, int | float):
        return False
    return math.isfinite(number) and abs(number) > largest


def _limited(number: Any, largest: float) -> Any:
    if isinstance(number, Tensor):
        return number.clamp(-largest, largest)
    return math.copysign(largest, number)
