"""``bf16-lean:states=bf16``: an optimizer's state is bf16 between steps, rounded stochastically.

For the time of a step it is fp32. Of a weight that is split, what has the weight's shape is rounded: moments, momentum,
sums of squares. Each number x becomes one of its two bf16 neighbours, the upper one with probability
(x - lower) / (upper - lower), so that the mean of many roundings is x: rounded to nearest, an average that moves by
less than half of bf16's last place would stand still (arXiv 2010.06192 has both for weights).

The random bits are a hash of the number, of its place, and of the fp32 weight after the step. So nothing is drawn from
a generator of the program's, the same training has the same numbers, resumed or in another process, and the next step
has other bits, unless neither the number nor the weight has moved. A number that bf16 can hold stays what it is.
"""

from __future__ import annotations

import ctypes
import functools
import zlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.split import CHUNK, is_dense
from halfstep.pytorch.native.builder import FOLDER, library

SOURCE = FOLDER / "stochastic.c"


class Fp32States:
    """State stays as the optimizer makes it."""

    def widen(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """Those parameters are about to be stepped."""

    def narrow(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """They have been stepped, and are fp32 as yet."""


class Bf16States(Fp32States):
    """State of split parameters is bf16 between steps."""

    def widen(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """It is fp32 now: 4 bytes per number."""
        with torch.no_grad():
            for state, key, value, _ in _shaped(optimizer, masters, torch.bfloat16):
                state[key] = value.float()

    def narrow(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """It is bf16 again."""
        with torch.inference_mode(False), torch.no_grad():
            for state, key, value, parameter in _shaped(optimizer, masters, torch.float32):
                narrow = torch.empty_like(value, dtype=torch.bfloat16)
                round_stochastically(value, parameter.detach(), narrow, zlib.crc32(key.encode()))
                state[key] = narrow


def _shaped(
    optimizer: Optimizer, masters: Iterable[Master], dtype: torch.dtype
) -> Iterator[tuple[dict[str, object], str, Tensor, Tensor]]:
    """The dict, the key and the tensor of all state of ``dtype`` that has the shape of its parameter, and that."""
    for master in masters:
        parameter = master.parameter
        state = optimizer.state.get(parameter, {})
        for key, value in list(state.items()):
            if isinstance(value, Tensor) and value.dtype is dtype and value.shape == parameter.shape:
                yield state, str(key), value, parameter


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
    """The last step of MurmurHash3, of int32: a shift of those keeps the sign, which is masked away."""
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
