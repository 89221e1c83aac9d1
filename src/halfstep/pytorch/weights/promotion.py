"""Autocast to float32: inside, products of 16-bit and of mixed operands are computed in fp32.

``torch.autocast`` refuses float32, but its kernels do not: they cast 16-bit operands of matrix products, convolutions,
attention, recurrent layers, ``cat`` and losses to whatever the autocast dtype is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import get_autocast_dtype, is_autocast_enabled, set_autocast_dtype, set_autocast_enabled

from halfstep.pytorch.dtypes import SIXTEEN_BIT, devices_here


class DefaultFp32(AbstractContextManager[None]):
    """What is made without a dtype is float32, although the program's default is 16-bit."""

    def __enter__(self) -> None:
        self._default = torch.get_default_dtype()
        if self._default in SIXTEEN_BIT:
            torch.set_default_dtype(torch.float32)

    def __exit__(self, *_: object) -> None:
        if self._default in SIXTEEN_BIT:
            torch.set_default_dtype(self._default)


class PromotedToFp32(DefaultFp32):
    """Autocast to float32 in this thread, and a default dtype of float32; then as it was."""

    def __enter__(self) -> None:
        super().__enter__()
        self._before = [(d, is_autocast_enabled(d), get_autocast_dtype(d)) for d in devices_here()]
        for device, *_ in self._before:
            set_autocast_dtype(device, torch.float32)
            set_autocast_enabled(device, True)

    def __exit__(self, *_: object) -> None:
        for device, enabled, dtype in self._before:
            set_autocast_enabled(device, enabled)
            set_autocast_dtype(device, dtype)
        super().__exit__()
