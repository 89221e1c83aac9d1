"""Round tensors to a format, exactly, inside the dtype they have.

Eager CPU tensors go chunk by chunk through buffers that stay in cache: one pass over memory instead of eight.
Everything else (torch.compile, other devices, subclasses of Tensor) is rounded whole.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from halfstep.errors import UsageError
from halfstep.precisions.exact import check_mode
from halfstep.precisions.formats import Format, get_scalar
from halfstep.pytorch.rounding import native
from halfstep.pytorch.rounding.kernels import INTEGERS, Kernel, Rounding, Work, contains, keep

#: elements per chunk: 1 MiB of float32, so that a chunk and its buffers stay in the level-2 caches
CHUNK = 1 << 18

#: dtype -> the dtype that it is rounded in
_WORKING = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def round_to(
    x: Tensor,
    format: str | Format,
    mode: str = "nearest_even",
    *,
    overflow: str | None = None,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Round a tensor to a format; the result has x's shape and dtype, and values of the format.

    float64 is rounded once, not by way of float32. Subnormals, signed zeros, infinities and NaN are as in
    :func:`halfstep.precisions.exact.round_exact`. The result carries no gradient. If x is 16-bit and the format has a
    larger range (bf16 in a float16 tensor), the result is limited by x's dtype.

    Args:
        x: float16, bfloat16, float32 or float64, any shape.
        format: a name or a :class:`Format`; not a block format (see ``round_blocks``) and not a scale.
        mode: ``nearest_even``, ``toward_zero``, or ``stochastic``: up or down, so that the mean is x.
        overflow: ``saturate``, ``infinity`` or ``nan``; None: the format's own (:attr:`Format.overflow`).
        generator: the random numbers of ``stochastic``; None: PyTorch's own.
        out: the tensor for the result, with x's shape, dtype and device, or x itself. It saves the page faults of new
            memory, which cost more than the rounding.

    Raises:
        UsageError: another dtype, format, mode or policy, or an ``out`` that does not match x.

    Example: ``round_to(torch.tensor(0.1), "fp16")`` is 0.0999755859375.
    """
    compiling = torch.compiler.is_compiling()
    working = working_dtype(x)
    # dynamo traces into a cache with a warning
    plan = _plan if compiling else _cached_plan
    rounding, kernel, same = plan(format, mode, overflow, x.dtype, compiling)
    _check_out(x, out)
    # The kernels in C come first: for a tensor of a million numbers a context manager is a hundredth of the time.
    if not (compiling or same) and (done := _in_c(x, kernel, rounding, out)) is not None:
        return done
    with torch.no_grad():
        if same:
            return x.clone() if out is None else out.copy_(x)
        if generator is not None:
            rounding = replace(rounding, generator=generator)
        if not compiling and _plain(x):
            return _by_chunks(x, kernel, rounding, out)
        result = kernel(x.to(working), rounding, Work()).to(x.dtype)
        return result if out is None else out.copy_(result)


def _plan(
    format: str | Format, mode: str, overflow: str | None, dtype: torch.dtype, compiling: bool
) -> tuple[Rounding, Kernel, bool]:
    """How to round, the kernel for it, and whether the result is x itself.

    Raises:
        UsageError: as :func:`round_to`.
    """
    check_mode(mode)
    fmt = get_scalar(format)
    if fmt.scale:
        raise UsageError(
            f"{fmt.name} is a format of scales, not of tensors; use a block format and round_blocks."
        )
    rounding = Rounding(fmt, mode, fmt.overflow_policy(overflow))
    same = contains(fmt, dtype) and rounding.overflow == "infinity"
    return rounding, rounding.kernel(_WORKING[dtype], compiling), same


#: cached, since a plan takes microseconds, which is much for a small tensor
_cached_plan = lru_cache(maxsize=256)(_plan)


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype that x is rounded in: float64 for float64, float32 for the others.

    Raises:
        UsageError: x is not a tensor of floating-point numbers of 16, 32 or 64 bits.
    """
    if x.dtype not in _WORKING:
        known = ", ".join(str(dtype) for dtype in _WORKING)
        raise UsageError(f"A tensor of {x.dtype} cannot be rounded; give one of {known}.")
    return _WORKING[x.dtype]


def _check_out(x: Tensor, out: Tensor | None) -> None:
    if out is not None and (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        given = f"{tuple(out.shape)} {out.dtype} on {out.device}"
        raise UsageError(
            f"out is {given}; it must be like x, {tuple(x.shape)} {x.dtype} on {x.device}, or left out."
        )


def _plain(x: Tensor) -> bool:
    """Whether x is in this machine's memory, and no stand-in for such a tensor (fake, batched, distributed)."""
    ordinary = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    return ordinary and not torch._C._functorch.is_functorch_wrapped_tensor(x)


class _Buffers(threading.local):
    """Memory for the intermediate results of a chunk, per thread: 2 MiB, and 6 MiB after float64 was rounded."""

    def __init__(self) -> None:
        self._sets: dict[torch.dtype, list[Tensor]] = {}

    def get(self, working: torch.dtype) -> list[Tensor]:
        if working not in self._sets:
            # a buffer made in inference mode could not be written outside it
            with torch.inference_mode(False):
                integer = INTEGERS[working]
                self._sets[working] = [torch.empty(CHUNK, dtype=integer) for _ in range(2)]
        return self._sets[working]


_BUFFERS = _Buffers()


#: with fewer elements the kernels in C are not used: their compilation does not pay
IN_C = 1 << 16


def _in_c(x: Tensor, kernel: Kernel, rounding: Rounding, out: Tensor | None) -> Tensor | None:
    """Round by the kernels in C if they exist and can do it; else None."""
    if x.numel() < IN_C or x.dtype is not torch.float32 or rounding.mode != "nearest_even" or kernel is keep:
        return None
    if not _plain(x) or not x.is_contiguous() or not (out is None or out.is_contiguous()):
        return None
    compiled = native.kernels()
    if compiled is None:
        return None
    # detached: the result carries no gradient, whatever x does
    target = torch.empty_like(x.detach()) if out is None else out
    compiled.round(x, target, rounding.format, rounding.overflow)
    return target


def _by_chunks(x: Tensor, kernel: Kernel, rounding: Rounding, out: Tensor | None) -> Tensor:
    target = out if out is not None and out.is_contiguous() else torch.empty(x.shape, dtype=x.dtype)
    first, second = _BUFFERS.get(_WORKING[x.dtype])
    for chunk, into in zip(x.detach().reshape(-1).split(CHUNK), target.view(-1).split(CHUNK), strict=True):
        n = chunk.numel()
        if x.dtype in INTEGERS:
            kernel(chunk, rounding, Work(into, first[:n], second[:n]))
        else:
            wide = chunk.float()
            kernel(wide, rounding, Work(wide, first[:n], second[:n]))
            into.copy_(wide)
    return target if out is None or target is out else out.copy_(target)
