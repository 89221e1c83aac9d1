"""The region that a thread keeps open around several calls, and what autocast is outside of every region."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import get_autocast_dtype
from torch._C import _current_graph_task_id

from halfstep.pytorch.autocast.state import AROUND, OUTSIDE, place, set_place, switch_back, switch_on
from halfstep.pytorch.devices import in_use


@dataclass(frozen=True)
class Outer:
    """How a thread was before a ``torch.autocast`` was entered."""

    place: torch.dtype  #: where it was
    opened: bool  #: whether a region to the backward pass was open
    #: for each device type, whether autocast was on, and its dtype
    states: tuple[tuple[str, bool, torch.dtype], ...]


class Around:
    """Opens and closes the region of a thread that lasts to the backward pass.

    Args:
        devices: device types.
        dtype: what products compute in there.

    Attributes:
        promotes: whether autocast to float32 is on outside of every region, because the program holds 16-bit numbers.
        gone: whether the recipe is no longer in force: then no region is opened, and autocast is off.
    """

    def __init__(self, devices: Sequence[str], dtype: torch.dtype) -> None:
        self._devices, self._dtype = devices, dtype
        self._thread = _Thread()
        self.promotes = False
        self.gone = False

    @property
    def is_open(self) -> bool:
        """Whether a region to the backward pass is open in this thread."""
        return self._thread.opened is not None

    def open(self) -> None:
        """Open a region from here to the next backward pass."""
        if place() is OUTSIDE and not self.gone:
            set_place(AROUND)
            before = switch_on(in_use(self._devices), self._dtype)
            self._thread.opened = self._thread.opened or before

    def close(self) -> None:
        """End the region, if one is open."""
        if self._thread.opened is not None:
            switch_back(self._thread.opened)
            self._thread.opened = None
            set_place(OUTSIDE)
            self.be_outside()

    def be_outside(self) -> None:
        """Set autocast as it is outside of every region: off, or to float32 where 16-bit numbers may meet fp32 ones.

        It is off in a backward pass, too, which calls modules when it recomputes activations or runs a graph.
        """
        if self.promotes and not self.gone and _current_graph_task_id() == -1:
            switch_on(self._devices, torch.float32)
        else:
            for device in self._devices:
                torch.set_autocast_enabled(device, False)

    def before(self) -> Outer:
        """The state of this thread before it enters a ``torch.autocast``, which has to restore it."""
        states = tuple((d, torch.is_autocast_enabled(d), get_autocast_dtype(d)) for d in self._devices)
        return Outer(place(), self.is_open, states)

    def back_to(self, outer: Outer) -> None:
        """Restore the state of before the ``torch.autocast``; a region may have been opened or closed inside it."""
        ended = outer.opened and not self.is_open
        switch_back(outer.states)
        set_place(OUTSIDE if ended else outer.place)
        if ended or (self.promotes and outer.place is OUTSIDE):
            self.be_outside()


class _Thread(threading.local):
    """What a region that is open until the backward pass has replaced in this thread; None where none is open."""

    opened: list[tuple[str, bool, torch.dtype]] | None = None
