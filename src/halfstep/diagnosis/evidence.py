"""What a watched trial's record says, gathered: origins by step, numbers by layer, what became of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from halfstep.diagnosis.model import NumberKind
from halfstep.precisions.recipes import Recipe
from halfstep.record import Record

Event = dict[str, Any]
SIXTEEN_BIT = ("bf16", "fp16")
KINDS: tuple[NumberKind, ...] = (
    "weights",
    "inputs",
    "activations",
    "gradients",
    "weight_gradients",
    "updates",
)


@dataclass
class Numbers:
    """The numbers of one kind in one layer, over the sampled steps.

    Attributes:
        counts: how many by binary exponent: e for [2^e, 2^(e+1)), -127 for zeros, 128 for what is not finite.
        largest: the largest finite magnitude.
        elements: how many there were; ``counted`` of them were looked at.
        dtype: the format in which they are stored.
        scale: the loss scale that was on them, already taken off.
        edges: of ``counts``, the numbers on which rounding decides: powers of two (``powers``), and by a format's
            name those that it rounds up out of their binade.
    """

    counts: dict[int, int] = field(default_factory=dict)
    largest: float = 0.0
    elements: int = 0
    counted: int = 0
    dtype: str = ""
    scale: float = 1.0
    edges: dict[str, dict[int, int]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take in the numbers of another step."""
        _add(self.counts, event["counts"])
        for name, counts in event.get("edges", {}).items():
            _add(self.edges.setdefault(name, {}), counts)
        self.largest = max(self.largest, event["largest"])
        self.elements += event["elements"]
        self.counted += event["counted"]
        self.dtype, self.scale = event["dtype"], event["scale"]

    @property
    def zeros(self) -> float:
        """The share of exact zeros."""
        return self.counts.get(-127, 0) / max(self.counted, 1)


def _add(counts: dict[int, int], more: Mapping[str, int]) -> None:
    for key, count in more.items():
        counts[int(key)] = counts.get(int(key), 0) + count


@dataclass
class Rounding:
    """What an emulated format did to the operands of one kind in one layer, over the sampled steps.

    The fields are those of :class:`halfstep.pytorch.watching.rounding.Rounded`.
    """

    format: str = ""
    step: int = 0
    nonzero: int = 0
    flushed: int = 0
    subnormal: int = 0
    overflowing: int = 0
    magnitude: float = 0.0
    lost: float = 0.0
    clamped: float = 0.0
    vectors: int = 0
    emptied: float = 0.0

    def add(self, event: Event) -> None:
        """Take in the operands of another step."""
        if not self.format:
            self.format, self.step = event["format"], event["step"]
        for name in ("nonzero", "flushed", "subnormal", "overflowing", "magnitude", "lost", "clamped", "vectors",
                     "emptied"):  # fmt: skip
            setattr(self, name, getattr(self, name) + event[name])


@dataclass
class Evidence:
    """The record of a watched trial, by what its events say."""

    record: Record
    events: dict[str, list[Event]]
    numbers: dict[tuple[str, str], Numbers]
    kinds: dict[str, str]
    rounded: dict[tuple[str, str], Rounding] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> Evidence:
        """Gather a record's events."""
        events: dict[str, list[Event]] = {}
        numbers: dict[tuple[str, str], Numbers] = {}
        kinds: dict[str, str] = {}
        rounded: dict[tuple[str, str], Rounding] = {}
        for event in record.watched:
            if event["what"] == "rounded":
                rounded.setdefault((event["module"], event["kind"]), Rounding()).add(event)
                continue
            if event["what"] != "numbers":
                events.setdefault(event["what"], []).append(event)
                continue
            numbers.setdefault((event["module"], event["kind"]), Numbers()).add(event)
            kinds[event["module"]] = event.get("type", "")
        return cls(record, events, numbers, kinds, rounded)

    def all(self, what: str) -> list[Event]:
        """The events of one kind, in order."""
        return self.events.get(what, [])

    @property
    def layers(self) -> list[str]:
        """Module paths, in the order in which they were first seen."""
        return list(dict.fromkeys(module for module, _ in self.numbers))

    @property
    def bad_steps(self) -> set[int]:
        """Steps that went wrong: skipped, or with a loss or gradients that were not finite."""
        found = {s["step"] for s in self.record.steps if s.get("skipped")}
        found |= {
            i for i, loss in enumerate(self.record.losses) if loss is not None and not math.isfinite(loss)
        }
        return found | {event["step"] for event in self.all("state")}

    @property
    def skipped(self) -> list[bool]:
        """Of every step, whether it was skipped."""
        return [bool(step.get("skipped")) for step in self.record.steps]

    @property
    def skipped_at_the_end(self) -> int:
        """How many of the last steps in a row were skipped."""
        row = 0
        for skipped in reversed(self.skipped):
            if not skipped:
                break
            row += 1
        return row

    @property
    def scale(self) -> float:
        """The loss scale of the last step that was made; of the first step where none was.

        Where every step is skipped the scale falls to its floor, and judges no gradient there.
        """
        made = [s for s in self.record.steps if not s.get("skipped")] or self.record.steps[:1]
        return float(made[-1].get("loss_scale", 1.0)) if made else 1.0

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, or weights became so."""
        losses = (loss for loss in self.record.losses if loss is not None)
        return not all(map(math.isfinite, losses)) or any(not e["weights"] for e in self.all("state"))

    def roots(self) -> list[Event]:
        """The origins of bad steps.

        Left out are those that only turned an earlier infinity of the step into NaN, and those that did no harm in
        other steps: the slope of a norm at zero, say, which PyTorch masks.
        """
        found: list[Event] = []
        infinite: set[int] = set()
        harmless = {place(e) for e in self.all("origin") if e["step"] not in self.bad_steps}
        for event in self.all("origin"):
            later = event["from_infinity"] and event["step"] in infinite
            infinite.add(event["step"])
            if event["step"] in self.bad_steps and not later and place(event) not in harmless:
                found.append(event)
        return found

    def silent(self) -> list[Event]:
        """Forward overflows that did no visible harm: an infinity where fp32 has a number."""
        roots = {place(e) for e in self.roots()}
        return [
            e
            for e in self.all("origin")
            if e["direction"] == "forward" and isinstance(e["exact"], float) and place(e) not in roots
        ]

    def turned(self, root: Event) -> Event | None:
        """Where the infinities of an origin first became NaN in the same step."""
        after = (e for e in self.all("origin") if e["step"] == root["step"] and e["at"] > root["at"])
        return next((e for e in after if e["from_infinity"] and e["nan"]), None)


def place(event: Event) -> tuple[str, str, str]:
    """What tells one origin from another: module, operation, direction."""
    return event["module"], event["operation"], event["direction"]


def first_of_each(events: Iterable[Event]) -> list[Event]:
    """The first event of every place."""
    found: dict[tuple[str, str, str], Event] = {}
    for event in events:
        found.setdefault(place(event), event)
    return list(found.values())


@dataclass(frozen=True)
class Case:
    """What a diagnosis is made from: the precision, its trial, and the same training in fp32 (or None)."""

    recipe: Recipe
    tried: Evidence
    reference: Evidence | None

    @property
    def numbers(self) -> dict[tuple[str, str], Numbers]:
        """The numbers as they are before the precision rounds them: those of fp32, where that ran."""
        return {**self.tried.numbers, **(self.reference.numbers if self.reference else {})}

    def format_of(self, module: str, kind: str) -> str:
        """The format that a layer's numbers meet: of its activations, where they are 16-bit, else as stored."""
        for key in ((module, "activations"), (module, kind)):
            stored = self.tried.numbers.get(key)
            if stored is not None and stored.dtype in ("fp16", "bf16"):
                return stored.dtype
        stored = self.tried.numbers.get((module, kind))
        return stored.dtype if stored else "fp32"

    def in_fp32_too(self, event: Event) -> bool:
        """Whether the same place of the program goes wrong in fp32 as well.

        What the reference computed there in 16 bits, whatever was asked of it, says nothing of fp32.
        """
        if self.reference is None:
            return self.recipe.name == "fp32" and event["dtype"] not in SIXTEEN_BIT
        in_fp32 = [other for other in self.reference.roots() if other["dtype"] not in SIXTEEN_BIT]
        return place(event) in {place(other) for other in in_fp32}

    @property
    def sixteen_bit_weights(self) -> bool:
        """Whether the trial held weights in 16 bits."""
        return bool({*self.tried.record.stored.formats("weights")} & {*SIXTEEN_BIT})
