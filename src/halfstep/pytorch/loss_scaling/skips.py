"""Counts the steps that a scaler has skipped."""

from __future__ import annotations

import torch
from torch import Tensor


class Skips:
    """Counts skipped steps; verdicts on a GPU are read when they are needed, or many at once."""

    def __init__(self) -> None:
        self._total = 0
        self._last = False
        self._pending: list[Tensor] = []
        self._floored: list[Tensor] = []
        self._in_a_row = 0

    @property
    def last(self) -> bool:
        self.flush()
        return self._last

    @property
    def total(self) -> int:
        self.flush()
        return self._total

    def stepped(self, skipped: bool | Tensor) -> bool:
        """Note the verdict on a step; True if the host knows that the step is to be skipped."""
        if isinstance(skipped, Tensor):
            self._pending.append(skipped)
            return False
        self.flush()
        self._total += skipped
        self._last = skipped
        return skipped

    def updated(self, floored: bool | Tensor, patience: int) -> bool:
        """Note whether this update was skipped at the floor; True at ``patience`` such updates in a row."""
        if isinstance(floored, Tensor):
            self._floored.append(floored)
            if len(self._floored) < patience:
                return False
            self.flush()  # synchronizes, once in `patience` updates
        else:
            self._in_a_row = self._in_a_row + 1 if floored else 0
        collapsed = self._in_a_row >= patience
        if collapsed:
            self._in_a_row = 0
        return collapsed

    def flush(self) -> None:
        """Read the verdicts that lie on a GPU."""
        for skipped in read_flags(self._pending):
            self._total += skipped
            self._last = skipped
        for floored in read_flags(self._floored):
            self._in_a_row = self._in_a_row + 1 if floored else 0
        self._pending, self._floored = [], []


def floored(found: Tensor, scale: Tensor, floor: float) -> bool | Tensor:
    """Whether gradients were not finite while the scale was at its floor; a flag that is not read yet on a GPU."""
    if scale.is_cpu:
        return bool(found.item()) and scale.item() <= floor
    return found * (scale <= floor)


def read_flags(flags: list[Tensor]) -> list[bool]:
    if not flags:
        return []
    return [bool(flag) for flag in torch.stack([flag.reshape(()) for flag in flags]).tolist()]
