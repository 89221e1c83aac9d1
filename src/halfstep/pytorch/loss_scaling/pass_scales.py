"""The scale of each line of the script that asks for gradients, and the line that is running."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import CodeType, FrameType

import torch

#: the lowest and the highest scale of such a pass
LOWEST, HIGHEST = 2.0**-24, 2.0**40
#: a scale is doubled after this many finite passes in a row; an overflow then costs a repeat, but no step
INTERVAL = 500
#: what the scale of a pass is divided by that cannot be repeated under a lower one
FALL = 4.0

#: a place in the program, and the depth of ``torch.func`` transforms there
Line = tuple[object, ...]

_CODES: dict[int, CodeType] = {}

_level = torch._C._functorch.maybe_current_level


@dataclass
class PassScale:
    """The scale of one line that asks for gradients."""

    value: float  #: a power of two
    finite: int = 0  #: how many passes in a row were finite
    largest: float = 0.0  #: the largest scaled magnitude for which it was found by a search; 0 if it was not
    new: bool = True  #: whether it has never been used
    hopeless: bool = False  #: whether the last pass was not finite under any scale
    #: whether its pass can be repeated; compiled code may overwrite its saved tensors
    repeatable: bool = True

    def lower(self) -> None:
        """The next pass starts lower, and what it finds is not compared with what was found before."""
        self.value, self.finite, self.largest = max(self.value / FALL, LOWEST), 0, 0.0


class PassScales:
    """The scale of each line of the program that asks for gradients.

    Args:
        searches: whether the first pass of a line looks for a higher scale, too.
        grows: whether scales are doubled after many finite passes.
    """

    def __init__(self, searches: bool, grows: bool) -> None:
        self.searches, self._grows = searches, grows
        self._scales: dict[tuple[Line, tuple[object, ...]], PassScale] = {}
        self._with_graph: list[PassScale] = []

    def here(self, start: float, *kind: object) -> PassScale:
        """The scale of the line outside PyTorch and halfstep that is running; ``start`` if it has none yet.

        Args:
            kind: distinguishes passes of one line.
        """
        return self._scales.setdefault((here(), kind), PassScale(start))

    def succeeded(self, scale: PassScale, under: float) -> None:
        """A pass was finite ``under`` this scale."""
        scale.finite = scale.finite + 1 if under == scale.value else 1
        scale.value, scale.new, scale.hopeless = under, False, False
        if self._grows and scale.finite >= INTERVAL:
            scale.value, scale.finite = min(scale.value * 2, HIGHEST), 0

    def made_graph(self, scale: PassScale) -> None:
        """A pass under this scale has created a graph, which a pass to come may go through (a gradient penalty).

        The numbers in that graph are in the unit of this scale, whatever the scale of the pass through it is.
        """
        if not any(known is scale for known in self._with_graph):
            self._with_graph.append(scale)

    def lower_graphs(self, but: PassScale | None = None) -> None:
        """A pass was not finite: the next graphs that it may go through are made under lower scales."""
        for scale in self._with_graph:
            if scale is not but:
                scale.lower()
        self._with_graph.clear()

    def went_well(self) -> None:
        """The passes since the last step were finite."""
        self._with_graph.clear()


def here() -> Line:
    """The line outside PyTorch and halfstep that is running."""
    frame = _outside(sys._getframe(1))
    code = frame.f_code
    _CODES[id(code)] = code  # kept alive, so that no other code gets its id
    return id(code), frame.f_lasti, _level()


def _outside(frame: FrameType) -> FrameType:
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("torch.", "halfstep.")
    ):
        frame = frame.f_back
    return frame
