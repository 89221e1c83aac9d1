"""What PyTorch needs beside :class:`halfstep.takeover.patches.Patches`: functions that compilers keep out of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo import eval_frame

from halfstep.takeover.patches import Patches as Patches

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


def never_traced(function: Function) -> Function:
    """Keep compilers out of ``function`` and of what it calls: a compiled program breaks its graph and calls it.

    ``torch.compiler.disable`` says the same, at the cost of importing the compiler.
    """
    return _not_traced(function, eval_frame._FrameAction.SKIP)


def itself_not_traced(function: Function) -> Function:
    """Keep compilers out of ``function``, but not out of what it calls."""
    return _not_traced(function, eval_frame._FrameAction.DEFAULT)


def not_compiled_alone(function: Function) -> Function:
    """Let compilers trace ``function`` where compiled code calls it; elsewhere they begin with what it calls.

    A compiler counts recompilations per function. In one that every module's call passes, those of all compiled
    modules of a program would add up, and soon be too many.
    """
    skip, default = eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT
    eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, default))
    return function


def _not_traced(function: Function, what_it_calls: eval_frame._FrameAction) -> Function:
    strategy = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, what_it_calls)
    eval_frame.set_code_exec_strategy(function.__code__, strategy)
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


@itself_not_traced
def outside_compiler(
    function: Callable[..., Result], inside: Callable[..., Any], *args: Any, **kwargs: Any
) -> Result:
    """``function(inside, *args, **kwargs)``, which no compiler sees; of ``inside`` they see what they would have.

    In a compiled program every function that is called is looked at, and compiled if it uses tensors.
    """
    compiler = eval_frame.set_eval_frame(None)
    if compiler is None:
        return function(inside, *args, **kwargs)

    def seen(*args: Any, **kwargs: Any) -> Any:
        before = eval_frame.set_eval_frame(compiler)
        try:
            return inside(*args, **kwargs)
        finally:
            eval_frame.set_eval_frame(before)

    try:
        return function(seen, *args, **kwargs)
    finally:
        eval_frame.set_eval_frame(compiler)
