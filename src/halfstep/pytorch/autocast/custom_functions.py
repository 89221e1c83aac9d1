"""``torch.autograd.Function`` in a region: its forward caches no casts, and its backward is in the region, too.

The backward of a Function that the script wrote multiplies what its forward saved. PyTorch runs it with autocast off:
saved fp32 weights then meet 16-bit gradients, and it fails, unless its author used ``torch.amp.custom_bwd``. Here it
runs under the autocast of its forward, as with ``custom_bwd``. PyTorch's own Functions are written for autocast off and
stay as they are, except those of its distributions: their samples are fp32 and meet 16-bit parameters in the backward.

In a program that holds 16-bit weights, a Function may need all its tensors in one dtype. There fp32 weights that meet a
16-bit tensor are cast to its dtype, which they had in the program itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, is_autocast_enabled, set_autocast_cache_enabled
from torch.autograd.function import BackwardCFunction

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches

#: the attribute of a node of the graph whose forward ran in a region
_IN_REGION = "_halfstep_in_region"


def is_scripts(function: type) -> bool:
    """Whether the backward of a Function is the script's code: of its own class, or of an operation that it made."""
    return not function.__module__.startswith("torch.") or function.__module__ == "torch._library.autograd"


def install(
    devices: tuple[str, ...],
    region: Callable[[], AbstractContextManager[None]],
    wants_one: Callable[[], bool],
    patches: Patches,
) -> None:
    """Wrap what runs custom Functions, forward and backward.

    Args:
        devices: the device types that autocast is on inside a region.
        region: makes the region that a backward is run in.
        wants_one: tells whether Functions may want one dtype of all their tensors.
    """
    apply = torch.autograd.Function.apply
    patches.set(torch.autograd.Function, "apply", classmethod(_uncached(apply, devices, wants_one)))

    def in_region(original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(node: Any, *gradients: Any) -> Any:
            if not getattr(node, _IN_REGION, False):
                return original(node, *gradients)
            with region():
                set_autocast_cache_enabled(False)
                return original(node, *gradients)

        return backward

    for name in ("apply", "apply_boxed"):
        if hasattr(BackwardCFunction, name):
            patches.wrap(BackwardCFunction, name, in_region)


def _uncached(
    original: Callable[..., Any], devices: tuple[str, ...], wants_one: Callable[[], bool]
) -> Callable[..., Any]:
    function: Callable[..., Any] = original.__func__  # type: ignore[attr-defined]

    @functools.wraps(function)
    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(is_autocast_enabled(device) for device in devices):
            return function(cls, *args, **kwargs)
        theirs = is_scripts(cls)
        samples = cls.__module__.startswith("torch.distributions.")
        cached = torch.is_autocast_cache_enabled()
        set_autocast_cache_enabled(False)
        try:
            if theirs and wants_one():
                args = _of_one_dtype(args)
            result = function(cls, *args, **kwargs)
        finally:
            set_autocast_cache_enabled(cached)
        if theirs or samples:
            _mark(result)
        return result

    return apply


def _of_one_dtype(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``args`` with fp32 tensors cast to the 16-bit dtype of the others, if these have one."""
    narrow = {x.dtype for x in args if isinstance(x, Tensor) and x.dtype in SIXTEEN_BIT}
    if len(narrow) != 1:
        return args
    (dtype,) = narrow
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.dtype is torch.float32 else x for x in args)


def _mark(result: Any) -> None:
    """Mark the node that made ``result``: its forward ran in a region."""
    for tensor in tensors_of((result,)):
        node: Any = tensor.grad_fn
        if isinstance(node, BackwardCFunction):
            setattr(node, _IN_REGION, True)
