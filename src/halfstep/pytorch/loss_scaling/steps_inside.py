"""Steps that hooks make inside a backward pass."""

from __future__ import annotations

import torch


class StepsInside:
    """Steps that hooks make inside a backward pass: those of one pass are one step, however many parameters it has.

    Attributes:
        stepped_inside: whether the optimizer that counts has ever stepped inside a pass.
    """

    def __init__(self) -> None:
        self.stepped_inside = False
        self._last = -1

    def steps_once(self) -> bool:
        """Whether a step made now is the first inside the pass under way, or outside of any."""
        task = torch._C._current_graph_task_id()
        if task == -1:
            return True
        first, self._last, self.stepped_inside = task != self._last, task, True
        return first
