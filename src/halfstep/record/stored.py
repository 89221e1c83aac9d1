"""What a training holds in memory by number format: weights, gradients and optimizer state, in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["weights", "gradients", "optimizer"]
PARTS: tuple[Part, ...] = ("weights", "gradients", "optimizer")

#: the 16-bit integers beside bf16 weights: a weight and its remainder are together an fp32 number
REMAINDER = "remainder16"

#: format, or REMAINDER -> bytes
Bytes = Mapping[str, int]

#: a format with a smaller share of a part's bytes is not named: Adam keeps an fp32 counter of 4 bytes beside any state
WORTH_NAMING = 0.01

#: they hold counters (of Keras's optimizers) and indices (of sparse gradients), which no precision is about
_INTEGERS = ("int32", "int64")


@dataclass(frozen=True)
class Stored:
    """What was held at the end of the sampled step; a part that was not measured is None, and ``absent`` says why."""

    #: parameters that are trained, and the frozen ones of the modules that were called
    weights: Bytes | None = None
    #: those of the weights at the end of the step; empty where the step left none
    gradients: Bytes | None = None
    optimizer: Bytes | None = None  #: the tensors of the optimizers' state
    absent: Mapping[str, str] = field(default_factory=dict)  #: part -> the reason why it was not measured

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Stored:
        """From a record's ``stored`` event; each field is checked."""
        reasons = event.get("absent")
        known = reasons if isinstance(reasons, Mapping) else {}
        return cls(
            **{part: _bytes(event.get(part)) for part in PARTS},
            absent={part: why for part in PARTS if isinstance(why := known.get(part), str)},
        )

    def part(self, name: Part) -> Bytes | None:
        """One part by its name."""
        return {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}[name]

    @property
    def measured(self) -> bool:
        """Whether any part was measured."""
        return any(self.part(name) is not None for name in PARTS)

    def formats(self, name: Part) -> tuple[str, ...]:
        """The formats that hold :data:`WORTH_NAMING` of a part or more, the largest first; integers are left out."""
        held = {f: size for f, size in (self.part(name) or {}).items() if f not in _INTEGERS}
        whole = sum(held.values())
        named = [f for f, size in held.items() if size >= WORTH_NAMING * whole and size]
        return tuple(sorted(named, key=lambda f: -held[f]))

    def as_json(self) -> dict[str, dict[str, int] | None]:
        """``{"weights": {"fp32": 4096}, "gradients": ..., "optimizer": ...}``; null where it was not measured."""
        return {part: None if (held := self.part(part)) is None else dict(held) for part in PARTS}


def _bytes(raw: Any) -> dict[str, int] | None:
    if not isinstance(raw, Mapping):
        return None
    return {
        str(name): int(size)
        for name, size in raw.items()
        if isinstance(size, int | float) and not isinstance(size, bool) and math.isfinite(size) and size >= 0
    }


def together(ranks: Iterable[Stored]) -> Stored:
    """The sum over the ranks of one training; a part that one of them lacks is absent."""
    every = list(ranks)
    parts = {part: [stored.part(part) for stored in every] for part in PARTS}
    absent = {part: why for stored in reversed(every) for part, why in stored.absent.items()}
    return Stored(
        **{part: None if not held or None in held else _sum(held) for part, held in parts.items()},
        absent={part: absent.get(part, "a rank did not record it") for part in PARTS if None in parts[part]},
    )


def _sum(every: Iterable[Bytes | None]) -> dict[str, int]:
    total: dict[str, int] = {}
    for held in every:
        for name, size in (held or {}).items():
            total[name] = total.get(name, 0) + size
    return total
