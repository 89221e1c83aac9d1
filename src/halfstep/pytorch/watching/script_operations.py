"""Operations that call others compute in the region where they are called: a dispatch mode would take it away.

They are those that a script registers (``torch.library``), and PyTorch's fused layers of Transformers. PyTorch runs
what a dispatch mode calls with autocast off, and so the code of such an operation: its products would not be those of a
run that nobody watches. So autocast is noted where the operation is called, and is on while it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import is_autocast_enabled
from torch._ops import OpOverload, OpOverloadPacket

from halfstep.pytorch.autocast.state import Switched
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.patches import Patches, wrap_functions

#: of PyTorch's own operations, which call nothing that autocast casts, but for :data:`_FUSED`
_PYTORCHS = ("aten", "prim", "prims", "halfstep", "profiler")

#: what evaluation calls in place of a whole layer
_FUSED = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")


class ScriptOperations:
    """Knows where operations that call others were called."""

    def __init__(self) -> None:
        self._thread = _Thread()

    def install(self, patches: Patches) -> None:
        """See each operation called."""
        patches.wrap(OpOverload, "__call__", self._calling)
        patches.wrap(OpOverloadPacket, "__call__", self._calling)
        wrap_functions(_FUSED, self._calling_fused, patches)

    def _calling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(operation: Any, /, *args: Any, **kwargs: Any) -> Any:
            if _namespace(operation) not in _PYTORCHS:
                self._thread.note()
            return original(operation, *args, **kwargs)

        return __call__

    def _calling_fused(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._thread.note()
            return original(*args, **kwargs)

        return call

    def as_called(self, operation: OpOverload[..., Any]) -> AbstractContextManager[None]:
        """A context in which autocast is as it was where the operation was called."""
        if operation.namespace in _PYTORCHS and operation._opname not in _FUSED:
            return nullcontext()
        on, self._thread.on = self._thread.on, ()
        return Switched(on, True) if on else nullcontext()


class _Thread(threading.local):
    on: Sequence[str] = ()

    def note(self) -> None:
        """Note on which devices autocast is on."""
        self.on = [device for device in device_types() if is_autocast_enabled(device)]


def _namespace(operation: Any) -> str:
    if isinstance(operation, OpOverload):
        return operation.namespace
    return str(operation._qualified_op_name).partition("::")[0]
