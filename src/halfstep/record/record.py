"""A record as its events were read, or as the process itself keeps what they told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfstep.record.events import number
from halfstep.record.stored import Stored
from halfstep.words.plural import count


@dataclass
class Record:
    """A record read back: events by kind, steps in order.

    Attributes:
        end: empty if the process was killed.
        damage: why no figure may be taken from it, as the end of a sentence; empty of a whole one, and of one that was
            only cut short.
    """

    path: Path
    start: dict[str, Any] = field(default_factory=dict)
    takeover: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    stored: Stored = field(default_factory=Stored)
    region: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    nonfinite: dict[str, Any] = field(default_factory=dict)
    own_amp: list[str] = field(default_factory=list)
    own_asks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    watched: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    damage: str = ""

    def without_figures(self) -> Record:
        """What identifies the trial, and nothing that was measured."""
        known = ("framework", "device")
        told: dict[str, Any] = {name: self.takeover[name] for name in known if name in self.takeover}
        return Record(self.path, start=self.start, takeover=told, damage=self.damage)

    @property
    def losses(self) -> list[float | None]:
        """The loss at each step; NaN and infinities as they are, None where no loss was seen."""
        return [number(step.get("loss")) for step in self.steps]

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step, in order, warm-up included."""
        return [step["seconds"] for step in self.steps if step.get("seconds") is not None]

    def add(self, line: dict[str, Any]) -> None:
        """Take one event in."""
        kind = line.get("event")
        if kind in ("start", "takeover", "sample", "region", "nonfinite", "end"):
            # A loss that is not finite says more than a skipped step, which may only have found the scale.
            if kind == "nonfinite" and self.nonfinite.get("what") in ("loss", line["what"]):
                return
            getattr(self, kind).update(line)
        elif kind == "step":
            self.steps.append(line)
        elif kind == "stored":
            self.stored = Stored.of(line)
        elif kind == "restart":
            self.steps, self.sample, self.nonfinite = [], {}, {}
            self.warnings = [text for text in self.warnings if text != line["drops"]]
        elif kind == "logged":
            self.logged.setdefault(line["name"], []).append((line["step"], float(line["value"])))
        elif kind == "watch":
            self.watched.append(line)
        elif kind == "own_amp":
            self.own_amp.append(line["what"])
            if "asks" in line:
                self.own_asks[line["what"]] = line["asks"]
        elif kind == "absent":
            self.absent.setdefault(str(line["look"]), str(line["reason"]))
        elif kind == "warning":
            self.warnings.append(line["text"])
        elif kind == "lost":
            self.damage = f"{count(line['lines'], 'line')} of it could not be written ({line['why']})"
