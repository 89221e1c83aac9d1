"""What PyTorch needs beside :class:`halfstep.takeover.patches.Patches`.

Compilers are kept out of some functions, and some functions PyTorch finds by identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch.utils._device import _device_constructors

from halfstep.takeover.patches import Method
from halfstep.takeover.patches import Patches as Patches

#: halfstep's, as its code objects have it
_FOLDER = (lambda: None).__code__.co_filename[: -len("pytorch/patches.py")]

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


def compile_nothing_alone(patches: Patches) -> None:
    """Let compilers trace halfstep's functions where compiled code calls them; elsewhere they pass them by.

    PyTorch's own, in whose place most stand, are in C, or are passed by as well. A compiler that meets ours behind a
    graph break would compile them: graphs that the program does not have under python, and if the compiled code calls
    the function, as it calls ``torch.as_tensor`` for each number, it has no end. A compiler also counts recompilations
    per function: in one through which every module's call goes they would soon exceed the limit.
    """

    def passing_by(original: Callable[..., bool]) -> Callable[..., bool]:
        def check(obj: Any, *args: Any, **kwargs: Any) -> bool:
            if isinstance(obj, CodeType) and obj.co_filename.startswith(_FOLDER):
                return True
            return original(obj, *args, **kwargs)

        return check

    patches.when_imported("torch._dynamo.trace_rules", lambda rules: patches.wrap(rules, "check", passing_by))


def _not_traced(function: Function, what_it_calls: eval_frame._FrameAction) -> Function:
    strategy = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, what_it_calls)
    eval_frame.set_code_exec_strategy(function.__code__, strategy)
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


@itself_not_traced
def outside_compiler(
    function: Callable[..., Result], inside: Callable[..., Any], *args: Any, **kwargs: Any
) -> Result:
    """``function(inside, *args, **kwargs)``, hidden from compilers; ``inside`` they see as without halfstep.

    In a compiled program a compiler looks at every function that is called, and compiles it if it uses tensors.
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


def wrap_functions(names: Sequence[str], make: Callable[[Method], Method], patches: Patches) -> None:
    """Wrap functions of ``torch`` that PyTorch itself looks up by identity; it finds the wrapped ones afterwards."""
    originals = [getattr(torch, name) for name in names]
    _device_constructors()  # fills PyTorch's cache, by which ``with torch.device("meta")`` knows them
    patches.wrap_each(torch, names, make)
    made = dict(zip([getattr(torch, name) for name in names], originals, strict=True))
    patches.when_imported(
        "torch._dynamo.trace_rules", lambda rules: _let_compilers_trace(rules, made, patches)
    )


def _let_compilers_trace(rules: Any, made: dict[Any, Any], patches: Patches) -> None:
    """Let Dynamo trace the wrapped functions: by their names it would put them into graphs as PyTorch's own."""

    def wrap(original: Callable[[], dict[Any, Any]]) -> Callable[[], dict[Any, Any]]:
        def get_torch_obj_rule_map() -> dict[Any, Any]:
            found = original()
            for function, own in made.items():
                if function in found:
                    found[own] = found.pop(function)
            return found

        # PyTorch clears the map when a process group begins.
        get_torch_obj_rule_map.cache_clear = original.cache_clear  # type: ignore[attr-defined]
        return get_torch_obj_rule_map

    patches.wrap(rules, "get_torch_obj_rule_map", wrap)


def before_swap(let_go: Callable[[Tensor], object], patches: Patches) -> None:
    """Call ``let_go``, which drops weak references, with both tensors of a swap, which refuses any that has some."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
            let_go(t1)
            let_go(t2)
            return original(t1, t2)

        return swap_tensors

    patches.wrap(torch.utils, "swap_tensors", wrap)
