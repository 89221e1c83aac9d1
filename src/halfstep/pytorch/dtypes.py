"""The torch dtypes of halfstep's formats, and back."""

from __future__ import annotations

import torch

#: formats with tensors of their own
DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_NAMES = {dtype: name for name, dtype in DTYPES.items()} | {
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
}

#: the mark in the ``__dict__`` of a module that ``keep=`` holds in fp32
KEPT = "_halfstep_keep"

SIXTEEN_BIT = (torch.bfloat16, torch.float16)


def format_name(dtype: torch.dtype) -> str:
    """The format's name for a dtype (``torch.bfloat16`` -> ``bf16``); other dtypes by torch's own name."""
    return _NAMES.get(dtype) or str(dtype).removeprefix("torch.")
