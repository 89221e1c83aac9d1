"""Puts kernels before PyTorch's own in its dispatcher, and takes them away."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C._dynamo import eval_frame

from halfstep.program.uncaught import stands_around
from halfstep.version import __version__


class Overrides:
    """Kernels in force in this process, in every thread, until :meth:`remove`.

    Args:
        traced: names what these kernels change in code that torch.compile traces; empty if nothing. Graphs traced with
            them are cached separately.
    """

    def __init__(self, traced: str = "") -> None:
        self._tag = f"[halfstep {__version__}: {traced}]" if traced else ""
        torch.compiler.config.cache_key_tag += self._tag
        self._library = torch.library.Library("aten", "IMPL")
        self._names: set[str] = set()

    def put(self, name: str, key: str, kernel: Callable[..., Any]) -> None:
        """Put ``kernel(keyset, *args, **kwargs)`` before the operation ``aten::name`` at a dispatch key."""
        hide_from_dynamo(kernel)
        self._impl(name, stands_around(kernel), key, with_keyset=True)

    def pass_by(self, name: str, key: str) -> None:
        """Let ``aten::name`` go on to the next dispatch key, as if nothing were registered at this one."""
        self._impl(name, torch.library.fallthrough_kernel, key)

    def _impl(self, name: str, kernel: Any, key: str, **options: Any) -> None:
        self._names.add(name)
        with warnings.catch_warnings():
            # To override kernels is the purpose here; PyTorch warns about the first one.
            warnings.filterwarnings("ignore", message=r"(?s).*Overriding a previously registered kernel")
            self._library.impl(name, kernel, key, allow_override=True, **options)
        forget([name])

    def remove(self) -> None:
        """Put PyTorch's own kernels back. Removing again does nothing."""
        self._library._destroy()
        config = torch.compiler.config
        config.cache_key_tag, self._tag = config.cache_key_tag.replace(self._tag, "", 1), ""
        forget(self._names)
        self._names.clear()


def overload(name: str) -> Any:
    """The operation ``aten::name`` as an object, e.g. of ``mm`` or ``addmm.out``."""
    packet, _, variant = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), variant or "default")


def forget(names: Iterable[str]) -> None:
    """Clear the cache in which torch.compile looks for kernels of ``aten::name`` when it traces."""
    for name in names:
        overload(name)._dispatch_cache.clear()


def own_kernel(name: str, key: str) -> Callable[..., Any]:
    """PyTorch's own kernel of ``aten::name`` at a dispatch key; it is called with the keyset first."""
    call: Callable[..., Any] = torch.library.get_kernel(f"aten::{name}", key).call_boxed
    return call


def exists(name: str) -> bool:
    """Whether this version of PyTorch has the operation ``aten::name``."""
    return bool(torch._C._dispatch_has_kernel(f"aten::{name}"))


def hide_from_dynamo(kernel: Callable[..., Any]) -> None:
    """Keep dynamo from compiling this kernel's frame and the functions that it calls, as it would after a graph break.

    ``torch.compiler.disable`` says the same, at the cost of importing the compiler.
    """
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(kernel.__code__, eval_frame._FrameExecStrategy(skip, skip))
