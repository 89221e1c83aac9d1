"""A record as its events were read, or as the process that writes it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from halfstep.record.events import (
    AbsentLook,
    Asked,
    End,
    Logged,
    Lost,
    NonFinite,
    Region,
    Restart,
    Sample,
    Start,
    Step,
    Takeover,
    Warned,
    Watched,
    number,
)
from halfstep.record.stored import Stored
from halfstep.words.plural import count


@dataclass
class Record:
    """A record read back: events by kind, steps in order."""

    path: Path
    start: Start = field(default_factory=Start)
    takeover: Takeover = field(default_factory=Takeover)
    steps: list[Step] = field(default_factory=list)
    sample: Sample = field(default_factory=Sample)
    stored: Stored = field(default_factory=Stored)
    region: Region = field(default_factory=Region)
    logged: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    nonfinite: NonFinite | None = None
    own_amp: list[str] = field(default_factory=list)
    own_asks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    watched: list[Watched] = field(default_factory=list)
    end: End = field(default_factory=End)  #: empty if the process was killed
    #: why no figure may be taken from it, as the end of a sentence; empty where the record is whole or only cut short
    damage: str = ""

    def without_figures(self) -> Record:
        """What identifies the trial, and nothing that was measured."""
        known: tuple[Literal["framework", "device"], ...] = ("framework", "device")
        kept: Takeover = {}
        for name in known:
            if name in self.takeover:
                kept[name] = self.takeover[name]
        return Record(self.path, start=self.start, takeover=kept, damage=self.damage)

    @property
    def losses(self) -> list[float | None]:
        """The loss at each step; NaN and infinities as they are, None where no loss was seen."""
        return [number(step.get("loss")) for step in self.steps]

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step, in order, warm-up included."""
        return [x for step in self.steps if (x := step.get("seconds")) is not None]

    def add(self, line: Mapping[str, object]) -> None:
        """Add one event, in which :func:`~halfstep.record.events.fault` has found nothing wrong."""
        kind = line.get("event")
        if kind in ("start", "takeover", "sample", "region", "end"):
            getattr(self, kind).update(line)
        elif kind == "nonfinite":
            # A loss that is not finite says more than a skipped step, which may only have found the scale.
            if self.nonfinite is None or self.nonfinite["what"] not in ("loss", line["what"]):
                self.nonfinite = cast(NonFinite, {**(self.nonfinite or {}), **line})
        elif kind == "step":
            self.steps.append(cast(Step, line))
        elif kind == "stored":
            self.stored = Stored.of(line)
        elif kind == "restart":
            self.steps, self.sample, self.nonfinite = [], {}, None
            self.warnings = [text for text in self.warnings if text != cast(Restart, line)["drops"]]
        elif kind == "logged":
            logged = cast(Logged, line)
            self.logged.setdefault(logged["name"], []).append((logged["step"], float(logged["value"])))
        elif kind == "watch":
            self.watched.append(cast(Watched, line))
        elif kind == "own_amp":
            own = cast(Asked, line)
            self.own_amp.append(own["what"])
            if "asks" in own:
                self.own_asks[own["what"]] = own["asks"]
        elif kind == "absent":
            absent = cast(AbsentLook, line)
            self.absent.setdefault(absent["look"], absent["reason"])
        elif kind == "warning":
            self.warnings.append(cast(Warned, line)["text"])
        elif kind == "lost":
            lost = cast(Lost, line)
            self.damage = f"{count(lost['lines'], 'line')} of it could not be written ({lost['why']})"
