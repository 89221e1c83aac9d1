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
    """How a thread was before a ``torch.autocast`` was entered.

    Attributes:
        place: where it was.
        opened: whether a region to the backward pass was open.
        states: for each device type, whether autocast was on, and its dtype.
    """

    place: torch.dtype
    opened: bool
    states: tuple[tuple[str, bool, torch.dtype], ...]


class Around:
    """Opens and closes the region of a thread that lasts to the backward pass.

    Args:
        devices: device types.
        dtype: what products compute in there.

    Attributes:
        promotes: whether autocast is on outside of every region, to float32: the program holds 16-bit numbers.
        gone: whether the recipe is in force no more: nothing is opened then, and outside autocast is off.
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
        """From here to the next backward pass."""
        if place() is OUTSIDE and not self.gone:
            set_place(AROUND)
            before = switch_on(in_use(self._devices), self._dtype)
            self._thread.opened = self._thread.opened or before

    def close(self) -> None:
        """The region ends, where one is open."""
        if self._thread.opened is not None:
            switch_back(self._thread.opened)
            self._thread.opened = None
            set_place(OUTSIDE)
            self.be_outside()

    def be_outside(self) -> None:
        """Autocast as it is outside of every region: off; where 16-bit numbers may meet fp32 ones, to float32.

        In a backward pass, which calls modules where it recomputes activations or runs a graph, it is off.
        """
        if self.promotes and not self.gone and _current_graph_task_id() == -1:
            switch_on(self._devices, torch.float32)
        else:
            for device in self._devices:
                torch.set_autocast_enabled(device, False)

    def before(self) -> Outer:
        """What a ``torch.autocast`` that is about to be entered has to leave behind."""
        states = tuple((d, torch.is_autocast_enabled(d), get_autocast_dtype(d)) for d in self._devices)
        return Outer(place(), self.is_open, states)

    def back_to(self, outer: Outer) -> None:
        """It has been left. A region to the backward pass may have ended inside, or begun."""
        ended = outer.opened and not self.is_open
        switch_back(outer.states)
        set_place(OUTSIDE if ended else outer.place)
        if ended or (self.promotes and outer.place is OUTSIDE):
            self.be_outside()


class _Thread(threading.local):
    """What a region that is open until the backward pass has replaced in this thread; None where none is open."""

    opened: list[tuple[str, bool, torch.dtype]] | None = None
