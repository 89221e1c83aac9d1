"""Keras's dtypes of halfstep's formats, and back."""

from __future__ import annotations

from typing import Any

import keras

#: the formats in which Keras computes
DTYPES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_FORMATS = {dtype: name for name, dtype in DTYPES.items()}

SIXTEEN = ("float16", "bfloat16")

#: the largest power of two in fp16: losses that a script computes in fp16 are scaled by no more
LARGEST_FP16 = 2.0**15


def format_name(dtype: str) -> str:
    """The format's name for a dtype (``bfloat16`` -> ``bf16``); other dtypes by Keras's own name."""
    return _FORMATS.get(dtype, dtype)


def dtype_name(dtype: Any) -> str:
    """Keras's name for a dtype of any framework. Raises ValueError if Keras has no such dtype."""
    return str(keras.backend.standardize_dtype(dtype))
