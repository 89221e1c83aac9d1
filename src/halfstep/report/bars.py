"""The page's stacked bars: where time and memory go, and what ran in which format. Drawn without a script."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.trials import TrialRow
from halfstep.report import units
from halfstep.words.fit import did_not_fit

MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "casts", "workspace")
TIME_PARTS = ("products", "other", "casts", "optimizer", "data", "host")
OTHER = "other"
_NAMES = {"optimizer": "optimizer state", "casts": "cast weights", OTHER: "the rest of the peak"}
_TIME_NAMES = {
    "products": "matrix products",
    "other": "other operations",
    "optimizer": "optimizer",
    "data": "data loading",
    "host": "between operations",
}
#: colours of the parts, by name: neighbours in a bar differ in lightness
_MEMORY_COLOURS = dict(zip((*MEMORY_PARTS, OTHER), ("m0", "m2", "m1", "m3", "m6", "m5", "m4"), strict=True))
_TIME_COLOURS = dict(zip(TIME_PARTS, ("m0", "m3", "m6", "m1", "m2", "m4"), strict=True))
_LETTER = 0.0078  # the width of a letter as a share of a bar on a wide page
_PHONE = 2.4  # how many times that share is on a phone


@dataclass(frozen=True)
class Part:
    """One part of a bar: start and width in percent of the widest bar, colour class, name, words, and label.

    ``tight``: whether the label is too wide on a phone.
    """

    start: float
    width: float
    colour: str
    name: str
    words: str
    label: str
    tight: bool

    @property
    def middle(self) -> float:
        """Where its label stands, in percent."""
        return self.start + self.width / 2


@dataclass(frozen=True)
class Bar:
    """One precision's bar. `total` is its length in words, and `note` follows it; without parts, `reason` says why."""

    precision: str
    parts: tuple[Part, ...]
    total: str
    trials: int
    reason: str
    note: str = ""


def memory(comparison: Comparison) -> list[Bar]:
    """One bar per precision: the bytes of every part, medians over its trials; all bars have one scale."""
    stacks = {name: _memory_stack(comparison.of(name)) for name in comparison.precisions}
    widest = max((sum(stack.values()) for stack in stacks.values()), default=0.0)
    bars = []
    for name, stack in stacks.items():
        totals = [_total(trial) for trial in comparison.of(name) if trial.memory]
        parts = _stacked(stack, widest, _MEMORY_COLOURS, units.bytes_, _NAMES)
        reason = _reason(t.memory_absent for t in comparison.of(name) if not t.memory)
        bars.append(Bar(name, parts, _extent(totals), len(totals), reason))
    return bars


def time(comparison: Comparison) -> list[Bar]:
    """One bar per precision: the median step by kind of work, mean shares of its trials; all bars have one scale."""
    found = {
        name: [t.time_shares for t in comparison.of(name) if t.time_shares] for name in comparison.precisions
    }
    steps = {row.precision: row.step_time for row in comparison.verdicts}
    whole = {name: step.median for name, step in steps.items() if step and found.get(name)}
    bars = []
    for name, shares_ in found.items():
        seconds = whole.get(name, 0.0)
        stack = {kind: mean * seconds for kind, mean in _means(shares_).items() if mean and seconds}
        parts = _stacked(stack, max(whole.values(), default=0.0), _TIME_COLOURS, units.seconds, _TIME_NAMES)
        reason = _reason(t.time_shares_absent for t in comparison.of(name) if not t.time_shares)
        bars.append(Bar(name, parts, f"{units.seconds(seconds)} per step", len(shares_), reason))
    return bars


def shares(comparison: Comparison, colours: Mapping[str, int]) -> list[Bar]:
    """One bar per precision: the share of matrix-product FLOPs by the operands' format, the mean over its trials."""
    bars = []
    for name in comparison.precisions:
        found = [trial.matmul_share for trial in comparison.of(name) if trial.matmul_share]
        formats = dict.fromkeys(format_ for share in found for format_ in share)
        stack = {format_: statistics.fmean(share.get(format_, 0.0) for share in found) for format_ in formats}
        stack = dict(sorted(stack.items(), key=lambda item: -item[1]))
        tints = {format_: f"p{colours[format_]}" for format_ in stack}
        parts = _stacked(stack, sum(stack.values()), tints, units.percent, {}, labelled=False)
        words = ", ".join(f"{format_} {_range(found, format_)}" for format_ in stack)
        reason = _reason(t.matmul_share_absent for t in comparison.of(name) if not t.matmul_share)
        bars.append(Bar(name, parts, words, len(found), reason))
    return bars


def fit(comparison: Comparison, colours: Mapping[str, int]) -> list[Bar]:
    """One bar per precision: the largest batch that fitted, in its colour; the reason where there is none."""
    found = comparison.fit_batch
    if found is None:
        return []
    widest = max((row.largest or 0 for row in found.rows), default=0)
    bars = []
    for row in found.rows:
        stack = {row.precision: float(row.largest)} if row.largest else {}
        tints = {row.precision: f"p{colours.get(row.precision, 0)}"}
        parts = _stacked(stack, widest, tints, lambda n: f"{n:,.0f}", {}, labelled=False)
        ratio = "" if row.ratio is None or row is found.rows[0] else f", {units.ratio(row.ratio)}"
        total = f"{row.largest:,} {found.name}{ratio}" if row.largest else ""
        note = did_not_fit(row.fails_at) if row.fails_at else row.reason
        bars.append(Bar(row.precision, parts, total, len(row.trials), row.reason, note))
    return bars


def energy(comparison: Comparison, colours: Mapping[str, int]) -> list[Bar]:
    """One bar per precision: joules per step, the median over its trials, in the precision's colour."""
    widest = max((row.energy.median for row in comparison.verdicts if row.energy), default=0.0)
    bars = []
    for row in comparison.verdicts:
        figure, tints = row.energy, {row.precision: f"p{colours[row.precision]}"}
        if figure is None:
            bars.append(Bar(row.precision, (), "", 0, row.energy_absent or ""))
            continue
        parts = _stacked({row.precision: figure.value}, widest, tints, units.joules, {}, labelled=False)
        total = f"{units.pm(figure.value, figure.low, figure.high, 'J')} per step"
        bars.append(Bar(row.precision, parts, total, row.trials or 0, ""))
    return bars


def drawn(bars: Sequence[Bar], comparison: Comparison) -> list[Bar]:
    """The bars with parts, then the precisions without, those with the same reason together.

    Precisions that made no step are left out: the table says why.
    """
    ran = [bar for bar in bars if bar.parts or any(trial.steps for trial in comparison.of(bar.precision))]
    without: dict[str, list[Bar]] = {}
    for bar in ran:
        if not bar.parts:
            without.setdefault(bar.reason, []).append(bar)
    together = [
        replace(group[0], precision=", ".join(bar.precision for bar in group)) for group in without.values()
    ]
    return [*(bar for bar in ran if bar.parts), *together]


def legend(bars: Iterable[Bar]) -> list[tuple[str, str]]:
    """(colour class, name) of every part in any bar, once, in the order of the bar with the most parts."""
    fullest = sorted(bars, key=lambda bar: -len(bar.parts))
    return list({part.colour: part.name for bar in fullest for part in bar.parts}.items())


def _memory_stack(trials: Sequence[TrialRow]) -> dict[str, float]:
    """The medians of the parts, in order; the rest of the peak comes last."""
    found = [trial.memory for trial in trials if trial.memory]
    names = [*MEMORY_PARTS, *sorted({name for parts in found for name in parts} - {*MEMORY_PARTS})]
    stack = {
        name: statistics.median(parts[name] for parts in found if name in parts)
        for name in names
        if any(name in p for p in found)
    }
    peaks = [t.peak_memory_bytes for t in trials if t.memory and t.peak_memory_bytes is not None]
    if peaks and statistics.median(peaks) > sum(stack.values()):
        stack[OTHER] = statistics.median(peaks) - sum(stack.values())
    return stack


def _total(trial: TrialRow) -> float:
    return sum((trial.memory or {}).values()) if trial.peak_memory_bytes is None else trial.peak_memory_bytes


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over the trials of each kind's share."""
    return {kind: statistics.fmean(share.get(kind, 0.0) for share in found) for kind in TIME_PARTS if found}


def _stacked(
    stack: Mapping[str, float],
    widest: float,
    colours: Mapping[str, str],
    write: Callable[[float], str],
    names: Mapping[str, str],
    labelled: bool = True,
) -> tuple[Part, ...]:
    """The parts side by side, each with the longest label that fits."""
    parts, start = [], 0.0
    for name, value in stack.items():
        width = value / widest if widest > 0 else 0.0
        spoken, figure = names.get(name, name), write(value)
        fitting = (label for label in (f"{spoken} {figure}", figure) if _LETTER * (len(label) + 2) < width)
        label = next(fitting, "") if labelled else ""
        tight = _PHONE * _LETTER * (len(label) + 2) > width
        colour = colours.get(name, "m5")
        parts.append(Part(100 * start, 100 * width, colour, spoken, f"{spoken}: {figure}", label, tight))
        start += width
    return tuple(parts)


def _extent(sizes: Sequence[float]) -> str:
    """The median with the lowest and the highest; a single size alone."""
    if len(sizes) < 2:
        return units.bytes_(sizes[0]) if sizes else ""
    return units.pm(statistics.median(sizes), min(sizes), max(sizes), "B")


def _range(found: Sequence[Mapping[str, float]], format_: str) -> str:
    """The share in words; its lowest and highest where the trials differ."""
    values = [share.get(format_, 0.0) for share in found]
    low, high = units.percent(min(values)), units.percent(max(values))
    return low if low == high else f"{low} to {high}"


def _reason(absent: Iterable[str | None]) -> str:
    return next((why for why in absent if why), "no trial ran")
