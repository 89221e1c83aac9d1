"""Errors that a format causes, by what the frameworks say of them, and the change of a line that mends each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FormatError:
    """A row of the table: what the framework's message contains, what has happened, and what to write instead.

    Attributes:
        sure: whether nothing else is worded so.
    """

    message: str
    happened: str
    change: str
    sure: bool = True


_MEET = "16-bit and fp32 numbers meet"
_CAST = "give both one dtype, as in y.to(x.dtype)"
_FLOAT = "compute it in fp32, with .float() before it"

#: the messages are PyTorch's and TensorFlow's own
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
    FormatError("mixed dtype (CPU)", _MEET, _CAST),
    FormatError("to have the same dtype", _MEET, _CAST),
    FormatError("to have same dtype", _MEET, _CAST),
    FormatError("must have the same dtype", _MEET, _CAST),
    FormatError("must have the same scalar type", _MEET, _CAST),
    FormatError("dtype to be equal to", _MEET, _CAST),
    FormatError("does not match weight dtype", _MEET, _CAST),
    FormatError("should be the same", _MEET, _CAST),
    FormatError("expected scalar type", _MEET, _CAST),
    FormatError("did not match", _MEET, _CAST),
    FormatError("Unexpected floating ScalarType", _MEET, _CAST),
    FormatError("can't be cast to the desired output type", _MEET, _CAST),
    FormatError("tensor but is a float tensor", _MEET, "cast one of them, as in keras.ops.cast(y, x.dtype)"),
    FormatError("tensor but is a half tensor", _MEET, "cast one of them, as in keras.ops.cast(y, x.dtype)"),
    FormatError(
        "tensor but is a bfloat16 tensor", _MEET, "cast one of them, as in keras.ops.cast(y, x.dtype)"
    ),
    FormatError(
        "cannot be converted to type",
        "a number beyond the range of 16 bits is written into a tensor of them",
        "write one that its dtype has, as torch.finfo(x.dtype).min",
    ),
    FormatError("not implemented for 'Half'", "the operation has no fp16", _FLOAT),
    FormatError("not implemented for 'BFloat16'", "the operation has no bf16", _FLOAT),
    FormatError("Low precision dtypes not supported", "the operation has no 16 bits", _FLOAT),
    FormatError("Unsupported dtype Half", "the operation has no fp16", _FLOAT),
    FormatError("Unsupported dtype BFloat16", "the operation has no bf16", _FLOAT),
    FormatError(
        "could not create a primitive descriptor", "this CPU cannot compute the layer in 16 bits", _FLOAT
    ),
)

_SIXTEEN_ONLY = "the operation has 16 bits alone, and under fp32 its operands are fp32"
_CHOOSE = (
    "choose it by the operands' dtype, as F.scaled_dot_product_attention does, or name the precisions to compare "
    "without fp32"
)

#: errors of kernels for 16 bits alone, in a row of fp32: PyTorch's, flash-attn's, Transformers' and xFormers'
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
    "a dtype is checked that the precision decides",
    "leave the check out, or run the program as-is",
    sure=False,
)
_CHECKS = re.compile(r"\b(assert|raise)\b")
_NAMES_A_DTYPE = re.compile(r"dtype|bfloat16|\bbf16|float16|\bfp16|float32|\bfp32|\bhalf\b", re.IGNORECASE)

#: what a message has to name beside it, where it is worded so in other errors, too
_SIXTEEN_BIT = ("half", "bfloat16", "float16", "dtype", "scalartype", "primitive descriptor")


def format_error(message: str, compute: str, code: str = "") -> FormatError | None:
    """The row of a framework's message; None where the format is not what it complains of.

    Args:
        message: of the exception.
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
    """What caused it, where, and what mends it: the change, and the modules to keep in fp32 where that is known."""
    at = f" at {place}" if place else ""
    keep = f", or run with {precision}:keep={','.join(modules)}"
    causes = "causes" if error.sure else "may cause"
    return (
        f"{precision} {causes} it: {error.happened}{at}; {error.change}{keep if modules and can_keep else ''}"
    )
