"""The page's stacked bars: where the memory goes, and what ran in which format. Drawn without a script."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from halfstep.report import units
from halfstep.report.parts import MEMORY_PARTS, Absent, Comparison, Trial

OTHER = "other"
_NAMES = {"optimizer": "optimizer state", OTHER: "the rest of the peak"}
_ROOM = 0.085  # a part narrower than this share of the bar has no room for its figure
_TIGHT = 0.22  # nor has one narrower than this on a phone


@dataclass(frozen=True)
class Part:
    """One stretch of a bar: start and width in percent of the widest bar, a colour class, words for it."""

    start: float
    width: float
    colour: str
    words: str
    label: str
    tight: bool

    @property
    def middle(self) -> float:
        """Where its label stands, in percent."""
        return self.start + self.width / 2


@dataclass(frozen=True)
class Bar:
    """One precision's bar; without parts, `reason` says why. `total` is its length in words."""

    precision: str
    parts: tuple[Part, ...]
    total: str
    trials: int
    reason: str


def memory(comparison: Comparison) -> list[Bar]:
    """A bar a precision: the median over its trials of every part's bytes, all bars to one scale."""
    stacks = {name: _memory_stack(comparison.of(name)) for name in comparison.precisions}
    widest = max((sum(stack.values()) for stack in stacks.values()), default=0.0)
    bars = []
    for name, stack in stacks.items():
        trials = [trial for trial in comparison.of(name) if not isinstance(trial.memory, Absent)]
        total = _extent([_total(trial) for trial in trials])
        parts = _stacked(stack, widest, _memory_colours(stack), units.bytes_)
        bars.append(Bar(name, parts, total, len(trials), _reason(t.memory for t in comparison.of(name))))
    return bars


def shares(comparison: Comparison, colours: Mapping[str, int]) -> list[Bar]:
    """A bar a precision: the share of matrix-product FLOPs by the operands' format, the mean over its trials."""
    bars = []
    for name in comparison.precisions:
        found = [trial.shares for trial in comparison.of(name) if not isinstance(trial.shares, Absent)]
        formats = dict.fromkeys(format_ for share in found for format_ in share)
        stack = {format_: statistics.fmean(share.get(format_, 0.0) for share in found) for format_ in formats}
        stack = dict(sorted(stack.items(), key=lambda item: -item[1]))
        tints = {format_: f"p{colours[format_]}" for format_ in stack}
        parts = _stacked(
            stack, sum(stack.values()), tints, units.percent, room=math.inf
        )  # `total` has the figures
        words = ", ".join(f"{format_} {_range(found, format_)}" for format_ in stack)
        bars.append(Bar(name, parts, words, len(found), _reason(t.shares for t in comparison.of(name))))
    return bars


def legend(bars: Iterable[Bar]) -> list[tuple[str, str]]:
    """(colour class, name) of every part that a bar has, once."""
    seen = {part.colour: part.words.partition(":")[0] for bar in bars for part in bar.parts}
    return sorted(seen.items())


def _memory_stack(trials: Sequence[Trial]) -> dict[str, float]:
    """The parts in order, by their medians; what the peak holds beyond them comes last."""
    known = [trial for trial in trials if not isinstance(trial.memory, Absent)]
    found = [trial.memory for trial in known if not isinstance(trial.memory, Absent)]
    names = [*MEMORY_PARTS, *sorted({name for parts in found for name in parts} - {*MEMORY_PARTS})]
    stack = {
        name: statistics.median(parts[name] for parts in found if name in parts)
        for name in names
        if any(name in p for p in found)
    }
    peaks = [trial.peak_memory for trial in known if not isinstance(trial.peak_memory, Absent)]
    if peaks and statistics.median(peaks) > sum(stack.values()):
        stack[OTHER] = statistics.median(peaks) - sum(stack.values())
    return stack


def _total(trial: Trial) -> float:
    if not isinstance(trial.peak_memory, Absent):
        return trial.peak_memory
    return 0.0 if isinstance(trial.memory, Absent) else sum(trial.memory.values())


def _memory_colours(stack: Iterable[str]) -> dict[str, str]:
    order = [*MEMORY_PARTS, OTHER]
    return {name: f"m{order.index(name) if name in order else len(order)}" for name in stack}


def _stacked(
    stack: Mapping[str, float],
    widest: float,
    colours: Mapping[str, str],
    write: Callable[[float], str],
    room: float = _ROOM,
) -> tuple[Part, ...]:
    parts, start = [], 0.0
    for name, value in stack.items():
        width = value / widest if widest > 0 else 0.0
        words = f"{_NAMES.get(name, name)}: {write(value)}"
        label = write(value) if width >= room else ""
        parts.append(Part(100 * start, 100 * width, colours[name], words, label, width < _TIGHT))
        start += width
    return tuple(parts)


def _extent(sizes: Sequence[float]) -> str:
    """The median with the lowest and the highest; of one trial the size alone."""
    if len(sizes) < 2:
        return units.bytes_(sizes[0]) if sizes else ""
    return units.pm(statistics.median(sizes), min(sizes), max(sizes), "B")


def _range(found: Sequence[Mapping[str, float]], format_: str) -> str:
    """The share in words; its lowest and highest where the trials differ."""
    values = [share.get(format_, 0.0) for share in found]
    low, high = units.percent(min(values)), units.percent(max(values))
    return low if low == high else f"{low} to {high}"


def _reason(parts: Iterable[object]) -> str:
    return next((part.reason for part in parts if isinstance(part, Absent)), "no trial ran")
