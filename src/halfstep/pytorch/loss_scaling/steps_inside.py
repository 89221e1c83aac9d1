"""Steps that hooks make inside a backward pass."""

from __future__ import annotations

import torch


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
        task = torch._C._current_graph_task_id()
        if task == -1:
            return True
        first, self._last, self.stepped_inside = task != self._last, task, True
        return first
