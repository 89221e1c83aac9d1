"""Errors that a number format causes: how the frameworks report each, and how to change the line that raised it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FormatError:
    """One kind of error: what the framework's message contains, what has happened, and what to write instead."""

    message: str
    happened: str
    change: str
    sure: bool = True  #: whether no other error has such a message


_MEET = "16-bit and fp32 numbers meet"
_CAST = "give both one dtype, as in y.to(x.dtype)"
_CAST_KERAS = "cast one of them, as in keras.ops.cast(y, x.dtype)"
_CAST_JAX = "give both one dtype, as in y.astype(x.dtype)"
_FLOAT = "compute it in fp32, with .float() before it"
_FLOAT_KERAS = "compute it in fp32, with keras.ops.cast(x, 'float32') before it"
_NO_FP16 = "the operation does not support fp16"
_NO_BF16 = "the operation does not support bf16"
_NO_16_BITS = "the operation does not support 16-bit numbers"


def _rows(messages: Sequence[str], happened: str, change: str) -> tuple[FormatError, ...]:
    return tuple(FormatError(message, happened, change) for message in messages)


#: the messages are PyTorch's, TensorFlow's, JAX's and NumPy's own
FORMAT_ERRORS: tuple[FormatError, ...] = (
    FormatError(
        "Index put requires the source and destination dtypes match",
        "16-bit numbers are put into an fp32 tensor",
        "write x[i] = y.to(x.dtype)",
    ),
    FormatError(
        "Expected out tensor to have dtype",
        "a 16-bit result is written into an fp32 tensor",
        "leave out=... out, or write out.copy_(...)",
    ),
    FormatError(
        "attempting to assign a gradient with dtype",
        "an fp32 gradient is given to a 16-bit weight",
        "write p.grad = g.to(p.dtype)",
    ),
    *_rows(
        (
            "that does not match type",
            "that don't all match",
            "have different types",
            "after 1 iteration",
            "conversion requested dtype",
            "is trying to write dtype",
            "Invalid data types; op elements",
            "tensor but is a float tensor",
            "tensor but is a half tensor",
            "tensor but is a bfloat16 tensor",
        ),
        _MEET,
        _CAST_KERAS,
    ),
    *_rows(("must have equal types", "must have equal output types"), _MEET, _CAST_JAX),
    *_rows(
        (
            "mixed dtype (CPU)",
            "same dtype",
            "dtypes must be the same",
            "to have the same type as tensor",
            "must have the same scalar type",
            "dtype to be equal to",
            "does not match weight dtype",
            "does not match input dtype",
            "should be the same",
            "expected scalar type",
            "Expected object of scalar type",
            "expected dtype",
            "Found dtype",
            "did not match",
            "Type promoting not supported",
            "Unexpected floating ScalarType",
            "can't be cast to the desired output type",
        ),
        _MEET,
        _CAST,
    ),
    FormatError(
        "cannot be converted to type",
        "a number beyond the range of a 16-bit format is written into a tensor of it",
        "write a number that its dtype can hold, such as torch.finfo(x.dtype).min",
    ),
    FormatError("bfloat16'> not inexact", "NumPy has no bf16", _FLOAT_KERAS),
    *_rows(
        (
            "not implemented for 'Half'",
            "not implemented for 'ComplexHalf'",
            "Unsupported dtype Half",
            "tensors of type: Half",
        ),
        _NO_FP16,
        _FLOAT,
    ),
    *_rows(("not implemented for 'BFloat16'", "Unsupported dtype BFloat16"), _NO_BF16, _FLOAT),
    *_rows(
        (
            "Low precision dtypes not supported",
            "other than float and double",
            "either float or double dtype",
            "only supported for half, float and double",
            "to be Half, Float or Double",
        ),
        _NO_16_BITS,
        _FLOAT,
    ),
    *_rows(
        (
            "of half is not in the list of allowed values",
            "DataType float16 not in list of allowed values",
            "T=DT_HALF",
            "Unsupported dtype float16",
            "does not accept dtype float16",
            "dtype=float16 is not supported",
        ),
        _NO_FP16,
        _FLOAT_KERAS,
    ),
    *_rows(
        (
            "of bfloat16 is not in the list of allowed values",
            "DataType bfloat16 not in list of allowed values",
            "T=DT_BFLOAT16",
            "Unsupported dtype bfloat16",
            "does not accept dtype bfloat16",
            "dtype=bfloat16 is not supported",
        ),
        _NO_BF16,
        _FLOAT_KERAS,
    ),
    *_rows(
        ("requires tf.float32 or tf.float64", "components have incorrect types"), _NO_16_BITS, _FLOAT_KERAS
    ),
    FormatError(
        "default scalar type for complex",
        "a complex number is made without a dtype, and the default dtype is 16-bit",
        "name its dtype, as in torch.tensor(1j, dtype=torch.complex64)",
    ),
    FormatError(
        "could not create a primitive descriptor", "this CPU cannot compute the layer in 16 bits", _FLOAT
    ),
)

_SIXTEEN_ONLY = "the operation supports 16-bit numbers only, and under fp32 its operands are fp32"
_CHOOSE = (
    "choose it by the operands' dtype, as F.scaled_dot_product_attention does, or name the precisions to compare "
    "without fp32"
)

#: errors under fp32 of kernels for 16-bit numbers only: those of PyTorch, flash-attn, Transformers and xFormers
FP32_ERRORS = tuple(
    FormatError(message, _SIXTEEN_ONLY, _CHOOSE)
    for message in (
        "not implemented for 'Float'",
        "expected scalar type Half but found Float",
        "expected scalar type BFloat16 but found Float",
        "to be BFloat16 matrix",
        "only support fp16 and bf16",
        "only supports fp16 and bf16",
        "only supports torch.float16 and torch.bfloat16",
        "dtype=torch.float32 (supported",
        "No available kernel. Aborting execution",
    )
)

#: a check that the program makes by itself, as ``assert x.dtype == torch.bfloat16``
_CHECKED = FormatError(
    "",
    "the program checks a dtype that the precision decides",
    "leave the check out, or run the program as-is",
    sure=False,
)
_CHECKS = re.compile(r"\b(assert|raise)\b")
_NAMES_A_DTYPE = re.compile(r"dtype|bfloat16|\bbf16|float16|\bfp16|float32|\bfp32|\bhalf\b", re.IGNORECASE)

#: a message must also contain one of these, as other errors use the words of the table, too
_SIXTEEN_BIT = (
    *("half", "bfloat16", "float16", "dtype", "scalartype", "scalar type", "primitive descriptor"),
    "float and double",
)


def format_error(message: str, compute: str, code: str = "") -> FormatError | None:
    """What an error is, by the framework's message; None where the number format did not cause it.

    Args:
        compute: the format that the precision computes in, as ``bf16``.
        code: the program's line that raised it.
    """
    found = None
    if compute in ("fp32", "tf32"):
        found = next((row for row in FP32_ERRORS if row.message in message), None)
    elif compute in ("bf16", "fp16"):
        if any(name in message.lower() for name in _SIXTEEN_BIT):
            found = next((row for row in FORMAT_ERRORS if row.message in message), None)
    else:
        return None
    checked = _CHECKS.search(code) and _NAMES_A_DTYPE.search(f"{code} {message}")
    return found or (_CHECKED if checked else None)


def cure_words(error: FormatError, precision: str, place: str, modules: Sequence[str], can_keep: bool) -> str:
    """What caused an error, where, and how to fix it: the change, and the modules to keep in fp32 if known."""
    at = f" at {place}" if place else ""
    keep = f", or run with {precision}:keep={','.join(modules)}"
    causes = "causes" if error.sure else "may cause"
    return (
        f"{precision} {causes} it: {error.happened}{at}; {error.change}{keep if modules and can_keep else ''}"
    )
