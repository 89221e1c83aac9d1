"""fp32 numbers rounded to bf16 at random, up or down, so that the mean of many roundings is the number.

Each number x becomes one of its two bf16 neighbours, the upper one with probability (x - lower) / (upper - lower): of
its bits u and 16 random bits r it is (u + r) >> 16. The random bits are a hash of the number, of its place and seed,
and of a second number. In C where there is a compiler (native/stochastic.c), else by PyTorch's operations, with the
same bits.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from halfstep.pytorch.lean.split import CHUNK, is_dense
from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "stochastic.c"


def round_stochastically(wide: Tensor, salt: Tensor, narrow: Tensor, seed: int) -> None:
    """Write fp32 numbers into a bf16 tensor, each rounded up or down at random.

    Args:
        wide: fp32.
        salt: fp32 of the same shape; its bits, and the place and the number, make the random bits.
        narrow: bf16 of the same shape.
        seed: from 0 to 2**32 - 1.
    """
    alike = wide.stride() == salt.stride() == narrow.stride() and is_dense(wide)
    native = kernel() if alike and wide.is_cpu else None
    if native is not None:
        native.hs_stochastic(wide.data_ptr(), salt.data_ptr(), narrow.data_ptr(), wide.numel(), seed)
    elif alike:
        flat = [t.as_strided((t.numel(),), (1,)).split(CHUNK) for t in (wide, salt, narrow)]
        for number, (x, s, result) in enumerate(zip(*flat, strict=True)):
            _round(x, s, result, seed + number * CHUNK)
    else:
        whole = torch.empty(wide.numel(), dtype=torch.bfloat16, device=wide.device)
        _round(wide.reshape(-1), salt.reshape(-1), whole, seed)
        narrow.copy_(whole.view(wide.shape))


def _round(wide: Tensor, salt: Tensor, narrow: Tensor, seed: int) -> None:
    bits = wide.contiguous().view(torch.int32)
    first = seed & 0xFFFFFFFF  # int32 adds modulo 2**32
    place = torch.arange(wide.numel(), dtype=torch.int32, device=wide.device).add_(_signed(first))
    random = _mixed(bits ^ _mixed(salt.contiguous().view(torch.int32) ^ _mixed(place))) & 0xFFFF
    high = torch.where(wide.isnan(), (bits >> 16) | 0x40, (bits + random) >> 16)
    narrow.view(torch.int16).copy_(high)


def _mixed(h: Tensor) -> Tensor:
    """The last step of MurmurHash3 on int32, whose right shift keeps the sign: the sign bits are masked away."""
    h = (h ^ ((h >> 16) & 0xFFFF)) * _signed(0x85EBCA6B)
    h = (h ^ ((h >> 13) & 0x7FFFF)) * _signed(0xC2B2AE35)
    return h ^ ((h >> 16) & 0xFFFF)


def _signed(x: int) -> int:
    """32 bits as a signed number."""
    return x - 2**32 if x >= 2**31 else x


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """The compiled pass, or None where it cannot be had."""
    found = library(SOURCE)
    if found is not None:
        found.hs_stochastic.restype = None
        found.hs_stochastic.argtypes = (*[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_uint32)
    return found
