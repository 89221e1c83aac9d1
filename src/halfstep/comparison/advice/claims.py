"""The reasons of a recommendation as values: what is claimed about a row, and the figure that the claim rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from halfstep.comparison.advice.evidence import RATIOS, Evidence, Row, ratio_name
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.verdicts import Explanation

#: what a claim says; its sentence is in :mod:`halfstep.report.words.advice`
ClaimKind = Literal[
    "failed", "diverged", "no_fall", "quality", "ratio", "batch", "not_measured", "skipped", "ran", "went_on",
    "no_units", "emulated", "speed_bound", "range", "share",
]  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """What is claimed about a row of the comparison, and where the figure stands that the claim rests on."""

    kind: ClaimKind
    row: Row
    evidence: EvidenceRef


def claim(kind: ClaimKind, row: Row, *figure: str | int) -> Claim:
    """A claim that rests on a figure of the row itself."""
    return Claim(kind, row, EvidenceRef("verdicts", row[0], figure))


def quality(row: Row) -> Claim:
    """The verdict on its quality."""
    return claim("quality", row, "quality", "words")


def ran(row: Row) -> Claim:
    """What a precision ran as."""
    return claim("ran", row, "ran_as")


def ratios(row: Row, first: Prefer = "speed") -> list[Claim]:
    """The measured ratios of a row, the objective's first."""
    figures = sorted(RATIOS.values(), key=lambda figure: figure != ratio_name(first))
    return [claim("ratio", row, figure) for figure in figures if getattr(row[1], figure) is not None]


def fitted(row: Row, evidence: Evidence) -> list[Claim]:
    """The largest batch that fits; nothing unless memory is the objective, and it is known for the baseline, too."""
    own, base = row[1].precision, evidence.base[1].precision
    if evidence.prefer != "memory" or not evidence.batches.known(own, base):
        return []
    return [Claim("batch", row, evidence.batches.evidence(own))]


#: objective -> the field of a row that says why its figure is absent
ABSENT: Mapping[str, str] = {
    "speed": "step_time_absent",
    "memory": "peak_memory_absent",
    "energy": "energy_absent",
}


def unmeasured(row: Row, prefer: Prefer) -> list[Claim]:
    """Why the objective's figure was not measured; nothing where it was."""
    figure = ABSENT[prefer]
    return [] if getattr(row[1], figure) is None else [claim("not_measured", row, figure)]


def skipped(row: Row) -> list[Claim]:
    """How many steps were skipped, if any."""
    return [claim("skipped", row, "skipped_steps")] if row[1].skipped_steps else []


def units(row: Row) -> list[Claim]:
    """That the hardware has no units for its format, where its products ran in fp32 units or in software."""
    return [claim("no_units", row, "ran_as")] if row[1].ran.without_units else []


_WHY: dict[Prefer, Literal["why_no_faster", "why_memory"]] = {
    "speed": "why_no_faster",
    "memory": "why_memory",
}


def explained(row: Row, prefer: Prefer) -> list[Claim]:
    """Why it gains nothing by the objective: the largest share of its step or its peak, and the first other fact.

    Not among these facts are its units, for which there is :func:`units`, and the largest possible gain.
    """
    figure = _WHY.get(prefer)
    entries: list[tuple[int, Explanation]] = list(enumerate(getattr(row[1], figure))) if figure else []
    shares = sorted(
        ((i, e) for i, e in entries if e.share is not None), key=lambda each: -(each[1].share or 0.0)
    )
    facts = [
        (i, e)
        for i, e in entries
        if e.share is None and e.evidence.path[-1:] not in (("ran_as",), ("products",))
    ]
    return [claim("share", row, str(figure), i) for i, _ in (*shares[:1], *facts[:1])]


def left_over(evidence: Evidence) -> list[Claim]:
    """Claims about the precisions that were not judged, and about a baseline that ran in another format than asked."""
    odd = [evidence.baseline] if evidence.baseline and evidence.baseline[1].ran.computed_otherwise else []
    return [
        *map(ran, (*odd, *evidence.same)),
        *(claim("went_on", row, "went_on") for row in evidence.continued),
        *(claim("failed", row, "reason") for row in evidence.failed),
    ]
