"""What is asked of the tensors that an operation takes and returns: are they finite, and what numbers are in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name
from halfstep.pytorch.watching.sums import widened


def floating(values: Any) -> Iterator[Tensor]:
    """Plain floating-point tensors in what an operation takes or returns."""
    if isinstance(values, Tensor):
        plain = type(values) in (Tensor, torch.nn.Parameter) and values.layout is torch.strided
        if plain and values.is_floating_point() and values.numel() and values.device.type != "meta":
            yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from floating(value)


def is_finite(tensor: Tensor) -> bool:
    """A finite sum has only finite terms, at half of what aminmax costs; a sum may overflow by itself."""
    tensor = summable(tensor)
    if math.isfinite(tensor.sum().item()):
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low) and math.isfinite(high)


def nan_and_infinity(tensors: Sequence[Tensor]) -> tuple[bool, bool]:
    """Whether there is a NaN, and whether there is an infinity."""
    bad = [summable(tensor) for tensor in tensors if not is_finite(tensor)]
    return any(bool(t.isnan().any()) for t in bad), any(bool(t.isinf().any()) for t in bad)


def deliberate(values: Any) -> bool:
    """Whether the program itself has written an infinity or a NaN here, as masks do."""
    return any(not math.isfinite(float(value)) for value in values if _is_scalar(value))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and value.is_floating_point() and not value.requires_grad
    return isinstance(value, float)


def address(tensor: Tensor) -> int:
    """Where its memory begins: the same for its views."""
    return tensor.untyped_storage().data_ptr()


def summable(tensor: Tensor) -> Tensor:
    """PyTorch has casts for numbers of 8 bits, and hardly any arithmetic."""
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def result_figures(output: Tensor) -> dict[str, Any]:
    """How many of its elements are NaN or infinite, and of how many."""
    wide = summable(output)
    return {
        "dtype": format_name(output.dtype),
        "nan": int(wide.isnan().sum()),
        "infinite": int(wide.isinf().sum()),
        "elements": output.numel(),
    }


def input_figures(tensor: Tensor) -> dict[str, Any]:
    """Magnitudes of the finite numbers of an input, and how many are zero."""
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
    """The largest magnitude of the same operation on the same numbers in fp32; None where it cannot be told."""
    if dtype not in SIXTEEN_BIT:
        return None
    try:
        result = widened(func, args, kwargs)
        finite = [float(torch.aminmax(t.abs()).max) for t in floating(result)]
    except (RuntimeError, TypeError, NotImplementedError, ValueError):
        return None
    return max(finite) if finite else None
