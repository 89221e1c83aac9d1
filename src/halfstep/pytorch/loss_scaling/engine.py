"""What PyTorch's autograd engine is doing in this thread."""

from __future__ import annotations

import torch

_FAKE, _PROXY, _FUNCTIONAL = (
    getattr(torch._C._TorchDispatchModeKey, key) for key in ("FAKE", "PROXY", "FUNCTIONAL")
)

_modes = torch._C._len_torch_dispatch_stack
_task = torch._C._current_graph_task_id


def inside_backward() -> bool:
    """Whether this thread is executing a backward pass."""
    return bool(_task() != -1)


def tracing() -> bool:
    """Whether a compiler is tracing: its joint graph must not contain a scale."""
    if not _modes():
        return False
    mode = torch._C._get_dispatch_mode
    return mode(_FAKE) is not None or mode(_PROXY) is not None or mode(_FUNCTIONAL) is not None
