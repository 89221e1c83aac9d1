"""What PyTorch needs beside :class:`halfstep.patches.Patches`: functions that compilers keep out of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo import eval_frame

from halfstep.patches import Patches as Patches

Function = TypeVar("Function", bound=Callable[..., Any])


def never_traced(function: Function) -> Function:
    """Keep compilers out of ``function`` and of what it calls: a compiled program breaks its graph and calls it.

    ``torch.compiler.disable`` says the same, at the cost of importing the compiler.
    """
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function
