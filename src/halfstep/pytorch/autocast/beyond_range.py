"""Numbers that fp32 code writes into masks, and that a 16-bit tensor cannot hold: -1e9 before a softmax.

In fp16, which ends at 65504, ``scores.masked_fill(mask, -1e9)`` raises; so does fp32's lowest number in bf16. In a
region a new tensor is then fp32; one that is written in place keeps its dtype, and has the largest number of it, with
the sign, in place of the infinity that would make NaN of a row that is wholly masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from halfstep.pytorch.autocast.mixed_operands import KEYS
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, overload

#: operations that write a Python number into their first argument or a copy of it, and the number's position
WRITES = {
    "masked_fill.Scalar": 2,
    "masked_fill_.Scalar": 2,
    "index_fill.int_Scalar": 3,
    "index_fill_.int_Scalar": 3,
    "constant_pad_nd": 2,
}


def hold(devices: Iterable[str]) -> Overrides:
    """Put the kernels at autocast's key of ``devices``.

    Returns:
        What takes them away again.
    """
    overrides = Overrides()
    for key in (KEYS[device] for device in devices if device in KEYS):
        for name, position in WRITES.items():
            overrides.put(name, key, _kernel(overload(name), key, position))
    return overrides


def _kernel(operation: Any, key: str, position: int) -> Callable[..., Any]:
    keys = DispatchKeySet(getattr(DispatchKey, key))

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            if len(args) > position and _is_beyond(args[0], args[position]):
                args = _held(operation, args, position)
            return operation(*args, **kwargs)

    return kernel


def _is_beyond(tensor: Tensor, number: Any) -> bool:
    if tensor.dtype not in SIXTEEN_BIT or not isinstance(number, int | float):
        return False
    return math.isfinite(number) and abs(number) > torch.finfo(tensor.dtype).max


def _held(operation: Any, args: tuple[Any, ...], position: int) -> tuple[Any, ...]:
    """Arguments with which the number is held: by an fp32 tensor, or as the largest of the format."""
    if not operation._schema.is_mutable:
        return (args[0].float(), *args[1:])
    largest = math.copysign(torch.finfo(args[0].dtype).max, args[position])
    return (*args[:position], largest, *args[position + 1 :])
