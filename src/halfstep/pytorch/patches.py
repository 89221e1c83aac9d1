"""Replacing attributes of PyTorch, and putting them back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo import eval_frame

Function = TypeVar("Function", bound=Callable[..., Any])


class Patches:
    """The places in PyTorch that a takeover has replaced, in order; :meth:`undo` restores them."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, bool]] = []

    def set(self, owner: Any, name: str, new: Any) -> None:
        """Put ``new`` at ``owner.name``, remembering what stood there (or that it was inherited)."""
        own = name in vars(owner)
        self._replaced.append((owner, name, vars(owner).get(name), own))
        setattr(owner, name, new)

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace the function ``owner.name`` by ``make(it)``, keeping its name, docstring and signature."""
        original = getattr(owner, name)
        self.set(owner, name, functools.wraps(original)(make(original)))

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._replaced:
            owner, name, old, own = self._replaced.pop()
            if own:
                setattr(owner, name, old)
            else:
                delattr(owner, name)


def never_traced(function: Function) -> Function:
    """Keep compilers out of ``function`` and of what it calls: a compiled program breaks its graph and calls it.

    ``torch.compiler.disable`` says the same, at the cost of importing the compiler.
    """
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function
