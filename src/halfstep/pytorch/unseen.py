"""Lets halfstep compute for itself: no mode of the program sees these operations, and no autocast casts in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from halfstep.takeover.looks import look

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextmanager
def unseen() -> Iterator[None]:
    """A context for halfstep's own operations: they see the program's tensors as stored, and nothing watches them.

    ``__torch_function__`` of subclasses and modes, dispatch modes and autocast are off: inside autocast ``torch.stack``
    of bf16 and fp16 tensors raises, and sums of 16-bit tensors have other results. It takes 1 us.
    """
    with torch._C.DisableTorchFunction(), torch._C._DisableAutocast():
        if torch._C._len_torch_dispatch_stack():
            with _disable_current_modes():
                yield
        else:
            yield


def unseen_look(
    name: str, tries: int = 1
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result | None]]:
    """A :func:`halfstep.takeover.looks.look` at tensors, whose operations are :func:`unseen`."""

    def decorate(method: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
        @look(name, tries)
        @functools.wraps(method)
        def looking(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with unseen():
                return method(*args, **kwargs)

        return looking

    return decorate
