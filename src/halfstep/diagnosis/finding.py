"""One thing seen to be wrong, and the ways to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from halfstep.diagnosis.model import FindingRow, RemedyRow

Kind = Literal[
    "overflow", "underflow", "nan_source", "domain_error", "epsilon_lost", "lost_update", "saturated_sum",
    "scale_collapse",
]  # fmt: skip
#: whose fault it is: the precision's, the model's (fp32 has it as well) or the data's
Fault = Literal["precision", "model", "data"]


@dataclass(frozen=True)
class Remedy:
    """A way to mend it: in words, and as a recipe that can be tried, where it is one."""

    text: str
    recipe: str | None = None


@dataclass(frozen=True)
class Finding:
    """A finding; the worst has the highest severity, from 0 to 100.

    Attributes:
        where: module path; empty for code outside of modules.
        operation: PyTorch's name of the operation; empty where none is to blame.
        direction: ``forward``, ``backward`` or ``step``.
        step: the first step that had it, from 0.
        evidence: what was seen, in figures.
        also: other modules that have the same.
    """

    kind: Kind
    severity: int
    where: str
    operation: str
    direction: str
    step: int | None
    evidence: str
    remedies: tuple[Remedy, ...]
    fault: Fault = "precision"
    source: str = ""
    code: str = ""
    also: tuple[str, ...] = field(default=())

    def row(self) -> FindingRow:
        """As the diagnosis has it, no remedy tried yet."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        ways = tuple(RemedyRow(remedy.text, remedy.recipe) for remedy in self.remedies)
        return FindingRow(**fields | {"remedies": ways}, remedy=ways[0].text if ways else "")


def placed(event: Mapping[str, Any]) -> dict[str, Any]:
    """Where an event was, as the fields of a finding."""
    return {
        "where": event["module"],
        "operation": event["operation"],
        "direction": event["direction"],
        "step": event["step"],
        "source": event.get("source", ""),
        "code": event.get("code", ""),
    }
