"""What halfstep computes for itself: no mode of anybody's sees it, and no autocast casts it."""

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
    """Operations in here are none of the program's: they reach its tensors as stored, and nothing that watches.

    ``__torch_function__`` of subclasses and modes, dispatch modes and autocast are off: inside autocast ``torch.stack``
    of bf16 and fp16 tensors raises, and sums of 16-bit tensors are other sums. 1 us.
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
    """A :func:`halfstep.looks.look` at tensors, whose operations are :func:`unseen`."""

    def decorate(method: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
        @look(name, tries)
        @functools.wraps(method)
        def looking(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with unseen():
                return method(*args, **kwargs)

        return looking

    return decorate
