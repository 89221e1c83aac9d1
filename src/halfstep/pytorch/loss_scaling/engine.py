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


class StepsInside:
    """Counts steps that hooks make inside a backward pass: all those of one pass are one step of the program.

    Attributes:
        stepped_inside: whether the optimizer that counts has ever stepped inside a pass.
    """

    def __init__(self) -> None:
        self.stepped_inside = False
        self._last = -1

    def steps_once(self) -> bool:
        """Whether a step made now is the first one inside the running pass, or outside of any pass."""
        task = _task()
        if task == -1:
            return True
        first, self._last, self.stepped_inside = task != self._last, task, True
        return first
