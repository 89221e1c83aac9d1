"""Where a 16-bit dtype that is named means float32 under an fp32 recipe: in models, and in the script's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.passed_on import Keywords
from halfstep.pytorch.autocast.data_loading import prepares_data
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.callers import asked_by_script
from halfstep.pytorch.dtypes import SIXTEEN_BIT

#: excluded in a thread while a kernel below those of autograd computes
_LAST_OF_AUTOGRAD = torch._C.DispatchKey.ADInplaceOrView


def replaced() -> bool:
    """Whether a dtype given to the calling function is replaced; its place and its own caller decide.

    Outside of models libraries get the dtype that they name: they may be loading a checkpoint. Compiled code there
    counts as the script's. Data loaders keep the script's dtypes, since their workers run without the recipe.
    """
    if torch.get_autocast_dtype("cpu") is not torch.float32:
        return False
    if torch.compiler.is_dynamo_compiling():
        return True
    if prepares_data():
        return False
    if place() is not OUTSIDE:
        return True
    return _is_traced() or asked_by_script(depth=2)


def _is_traced() -> bool:
    guards = torch._guards
    return guards.CompileContext.try_get() is not None or guards.TracingContext.try_get() is not None


def is_below_autograd(first: Any) -> bool:
    """Whether an operation of PyTorch makes this cast for itself, not Python code: then the cast is applied.

    ``a + i`` of 16-bit and integer operands casts ``i`` inside its kernel, and then reads the cast as 16-bit numbers.
    In ``inference_mode`` calls do not pass autograd. There operations cast numbers, integers and single values; the
    program's own casts of these are applied, too.

    Args:
        first: what is cast: a tensor, or a Python number where PyTorch has made one of an operand.
    """
    if not isinstance(first, Tensor) or torch._C._dispatch_tls_is_dispatch_key_excluded(_LAST_OF_AUTOGRAD):
        return True
    return torch.is_inference_mode_enabled() and not (first.is_floating_point() and first.dim() > 0)


def is_in_a_model() -> bool:
    """Whether the program is calling a model: not a data loader, and not an export."""
    return place() is not OUTSIDE and not prepares_data() and not torch.compiler.is_exporting()


def is_narrow_dtype(value: Any) -> bool:
    """Whether it is a 16-bit dtype."""
    return isinstance(value, torch.dtype) and value in SIXTEEN_BIT


def unnarrowed(value: Any) -> Any:
    """``value``, or float32 where it is a 16-bit dtype."""
    return torch.float32 if is_narrow_dtype(value) else value


def widened(value: Any) -> Any:
    """``value``; a 16-bit tensor in float32, and float32 for a 16-bit dtype."""
    if isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT:
        return value.to(torch.float32)
    return unnarrowed(value)


def each(
    change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: Keywords
) -> tuple[tuple[Any, ...], Keywords]:
    """The arguments of a call, each changed."""
    return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}
