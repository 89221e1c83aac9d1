"""What a watched trial's record says, in order: origins by step, numbers by layer, how each step ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from halfstep.codec import read
from halfstep.diagnosis.events import (
    SIXTEEN_BIT,
    Counted,
    NumberKind,
    Origin,
    Place,
    Seen,
    State,
    readable,
    seen,
)
from halfstep.precisions.recipes import Recipe
from halfstep.record import Record
from halfstep.record.watched import NumberCounts, OperandCounts

T = TypeVar("T")
P = TypeVar("P", bound=Place)

#: module path and kind of numbers
Key = tuple[str, NumberKind]


class Numbers(NumberCounts):
    """The numbers of one kind in one layer, over the sampled steps."""

    def add(self, more: Numbers) -> None:
        """Add the numbers of another step."""
        _add(self.counts, more.counts)
        for name, counts in more.edges.items():
            _add(self.edges.setdefault(name, {}), counts)
        self.largest = max(self.largest, more.largest)
        self.elements += more.elements
        self.counted += more.counted
        self.dtype, self.scale = more.dtype, more.scale

    @property
    def zeros(self) -> float:
        """The share of exact zeros."""
        return self.counts.get(-127, 0) / max(self.counted, 1)


def _add(counts: dict[int, int], more: Mapping[int, int]) -> None:
    for exponent, count in more.items():
        counts[exponent] = counts.get(exponent, 0) + count


@dataclass
class Rounding(OperandCounts):
    """What an emulated format did to the operands of one kind in one layer, in the sampled steps from ``step`` on."""

    step: int = 0

    def add(self, more: Rounding) -> None:
        """Add the operands of another step."""
        for name in vars(self).keys() - {"format", "step"}:
            setattr(self, name, getattr(self, name) + getattr(more, name))


@dataclass
class Evidence:
    """The record of a watched trial: what was seen, the numbers and roundings by layer, and the layers' classes."""

    record: Record
    seen: list[Seen]
    numbers: dict[Key, Numbers] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    rounded: dict[Key, Rounding] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> Evidence:
        """From a record's events."""
        found = cls(record, list(seen(record.watched)))
        for event in record.watched:
            if event["what"] not in ("numbers", "rounded"):
                continue
            for of in readable(Counted, event):
                key = of.module, of.kind
                if event["what"] == "numbers":
                    found.kinds[of.module] = of.type
                    found.numbers.setdefault(key, Numbers()).add(read(Numbers, event))
                elif key in found.rounded:
                    found.rounded[key].add(read(Rounding, event))
                else:
                    found.rounded[key] = read(Rounding, event)
        return found

    def all(self, kind: type[T]) -> list[T]:
        """The events of one kind, in order."""
        return [event for event in self.seen if isinstance(event, kind)]

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
        return found | {state.step for state in self.all(State)}

    @property
    def skipped(self) -> list[bool]:
        """For every step, whether it was skipped."""
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
        """The loss scale of the last step that was made, or of the first step if none was.

        If every step is skipped, the scale ends at its floor, which says nothing about the gradients.
        """
        made = [s for s in self.record.steps if not s.get("skipped")] or self.record.steps[:1]
        return float(made[-1].get("loss_scale", 1.0)) if made else 1.0

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, or weights became so."""
        losses = (loss for loss in self.record.losses if loss is not None)
        return not all(map(math.isfinite, losses)) or any(not state.weights for state in self.all(State))

    def roots(self) -> list[Origin]:
        """The origins of bad steps.

        This leaves out origins that only turned an earlier infinity of the step into NaN, and those that did no harm
        in other steps, such as the slope of a norm at zero, which PyTorch masks.
        """
        found: list[Origin] = []
        infinite: set[int] = set()
        harmless = {e.key for e in self.all(Origin) if e.step not in self.bad_steps}
        for event in self.all(Origin):
            later = event.from_infinity and event.step in infinite
            infinite.add(event.step)
            if event.step in self.bad_steps and not later and event.key not in harmless:
                found.append(event)
        return found

    def silent(self) -> list[Origin]:
        """Forward overflows that did no visible harm: an infinity where fp32 has a number."""
        roots = {root.key for root in self.roots()}
        return [
            e
            for e in self.all(Origin)
            if e.direction == "forward" and e.exact is not None and e.key not in roots
        ]

    def turned(self, root: Origin) -> Origin | None:
        """Where the infinities of an origin first became NaN in the same step."""
        after = (e for e in self.all(Origin) if e.step == root.step and e.at > root.at)
        return next((e for e in after if e.from_infinity and e.nan), None)


def first_of_each(events: Iterable[P]) -> list[P]:
    """The first event of every place."""
    found: dict[tuple[str, str, str], P] = {}
    for event in events:
        found.setdefault(event.key, event)
    return list(found.values())


@dataclass(frozen=True)
class Case:
    """What a diagnosis is made from: the precision, its trial, and the same training in fp32 (or None)."""

    recipe: Recipe
    tried: Evidence
    reference: Evidence | None

    @property
    def numbers(self) -> dict[Key, Numbers]:
        """The numbers as they are before the precision rounds them: those of fp32, where that ran."""
        return {**self.tried.numbers, **(self.reference.numbers if self.reference else {})}

    def format_of(self, module: str, kind: NumberKind) -> str:
        """The format that limits a layer's numbers: its activations' if that has 16 bits, else their own."""
        keys: tuple[Key, Key] = (module, "activations"), (module, kind)
        results, own = (numbers.dtype if (numbers := self.tried.numbers.get(key)) else "fp32" for key in keys)
        return results if results in SIXTEEN_BIT else own

    def in_fp32_too(self, event: Origin) -> bool:
        """Whether the same place of the program goes wrong in fp32 as well.

        A result that the reference itself computed in 16 bits says nothing about fp32.
        """
        if self.reference is None:
            return self.recipe.name == "fp32" and event.dtype not in SIXTEEN_BIT
        return event.key in {root.key for root in self.reference.roots() if root.dtype not in SIXTEEN_BIT}

    @property
    def sixteen_bit_weights(self) -> bool:
        """Whether the trial held weights in 16 bits."""
        return bool({*self.tried.record.stored.formats("weights")} & {*SIXTEEN_BIT})
