"""Answers questions about the tensors that an operation takes and returns: are they finite, how large are they?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name
from halfstep.pytorch.watching.sums import widened


def plain(tensor: Any) -> bool:
    """Whether it is a floating-point tensor whose numbers lie in this process's memory.

    Tensors of subclasses (sharded, quantised, fake, the script's own), sparse and nested ones are excluded, and tensors
    without memory, which would crash the process: on the meta device, zeros of forward mode, freed gathered weights.
    """
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_meta
        and tensor.is_floating_point()
        and not tensor._is_zerotensor()
        and (batched(tensor) or not tensor.numel() or tensor.untyped_storage().nbytes() > 0)
    )


def batched(tensor: Tensor) -> bool:
    """Whether it wraps another tensor inside ``torch.func`` (``vmap``, ``grad``, ``jvp``)."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def innermost(tensor: Tensor) -> Tensor:
    """The tensor with the numbers, inside the wrappers of ``torch.func``: all samples of a batched one."""
    while batched(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def floating(values: Any) -> Iterator[Tensor]:
    """The plain floating-point tensors among the arguments or results of an operation."""
    if isinstance(values, Tensor):
        if plain(values) and values.numel():
            yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from floating(value)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite. A finite sum shows it at half the cost of aminmax; but a sum may overflow."""
    tensor = summable(tensor)
    if math.isfinite(tensor.sum().item()):
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low) and math.isfinite(high)


def nan_and_infinity(tensors: Sequence[Tensor]) -> tuple[bool, bool]:
    """Whether there is a NaN among the numbers, and whether there is an infinity."""
    bad = [summable(tensor) for tensor in tensors if not is_finite(tensor)]
    return any(bool(t.isnan().any()) for t in bad), any(bool(t.isinf().any()) for t in bad)


def deliberate(values: Any) -> bool:
    """Whether the program itself has written an infinity or a NaN here, as for a mask."""
    return any(not math.isfinite(float(value)) for value in values if _is_scalar(value))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and value.is_floating_point() and not value.requires_grad
    return isinstance(value, float)


def address(tensor: Tensor) -> int:
    """Where its memory begins; a view has the same address."""
    return tensor.untyped_storage().data_ptr()


def summable(tensor: Tensor) -> Tensor:
    """``tensor``, with 8-bit numbers cast: PyTorch has hardly any arithmetic for them."""
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def result_figures(output: Tensor) -> dict[str, object]:
    """How many of its elements are NaN, how many are infinite, and how many there are."""
    wide = summable(output)
    return {
        "dtype": format_name(output.dtype),
        "nan": int(wide.isnan().sum()),
        "infinite": int(wide.isinf().sum()),
        "elements": output.numel(),
    }


def input_figures(tensor: Tensor) -> dict[str, object]:
    """The magnitudes of the finite numbers of an input, and how many numbers are zero."""
    magnitudes = tensor.double().abs()
    finite = magnitudes[magnitudes.isfinite()]
    above = finite[finite > 0]
    return {
        "dtype": format_name(tensor.dtype),
        "largest": float(finite.max()) if finite.numel() else None,
        "smallest": float(above.min()) if above.numel() else None,
        "zeros": int((magnitudes == 0).sum()),
        "elements": tensor.numel(),
    }


def exactly(func: Any, args: Any, kwargs: Any, dtype: torch.dtype) -> float | None:
    """The largest magnitude of the same operation on the same numbers in fp32; None where it is not known."""
    if dtype not in SIXTEEN_BIT:
        return None
    try:
        result = widened(func, args, kwargs)
        finite = [float(torch.aminmax(t.abs()).max) for t in floating(result)]
    except (RuntimeError, TypeError, NotImplementedError, ValueError):
        return None
    return max(finite) if finite else None
