"""Refuses a takeover that comes too late to be right."""

from __future__ import annotations

import torch

from halfstep.errors import UsageError
from halfstep.pytorch.loss_scaling.step import classes_with_a_wrapped_step


def refuse_if_late() -> None:
    """Raise if the program has already trained.

    Raises:
        UsageError: an optimizer was made, or a backward pass was run, before.
    """
    late = (
        "a backward pass"
        if _backward_has_run()
        else "an optimizer"
        if classes_with_a_wrapped_step()
        else None
    )
    if late is not None:
        raise UsageError(f"halfstep.enable() came after {late}; make it the first line of the program.")


def _backward_has_run() -> bool:
    """Backward passes are numbered from 0: a tiny one tells its own number."""
    numbers: list[int] = []
    probe = torch.zeros((), requires_grad=True)
    probe.register_hook(lambda gradient: numbers.append(torch._C._current_graph_task_id()))
    probe.backward()
    global _probes
    _probes += 1
    return numbers[0] >= _probes


#: backward passes made by this module
_probes = 0
