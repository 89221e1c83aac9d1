"""Reports calls of modules in the sampled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.compiler import is_compiling, is_dynamo_compiling

from halfstep.pytorch.patches import Patches, never_traced

Note = Callable[[nn.Module, tuple[Any, ...]], None]


class ModuleCalls:
    """Wraps ``Module.__call__`` once for the whole run: Dynamo guards it, and would compile again if it changed.

    A global module hook would make ``torch.compile`` warn. It costs 0.2 us per call outside of the sampled step.
    """

    def __init__(self) -> None:
        self._notes: tuple[Note, ...] = ()

    def install(self, patches: Patches) -> None:
        """Wrap every call of a module; at first nothing is reported."""
        patches.wrap(nn.Module, "__call__", self._call)

    def tell(self, *notes: Note) -> None:
        """Call ``notes`` at each call of a module from now on, with the module and its arguments."""
        self._notes = notes

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # In this order a compiler sees a constant, and nothing that changes. ``is_compiling`` is asked last, as it
            # takes one more call.
            if not is_dynamo_compiling() and self._notes and not is_compiling():
                _tell(self._notes, module, (*args, *kwargs.values()))
            return original(module, *args, **kwargs)

        return __call__


@never_traced
def _tell(notes: tuple[Note, ...], module: nn.Module, args: tuple[Any, ...]) -> None:
    for note in notes:
        note(module, args)
