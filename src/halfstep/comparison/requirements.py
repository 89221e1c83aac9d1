"""``--require``: what a comparison has to show, so that a job or a test fails if it does not.

``bf16: no worse, speed >= 1.2, memory <= 0.9`` is one requirement of three terms. Ratios are to the baseline, and a
term holds if it holds for the whole 95 % interval; ``no worse`` holds if the loss and the logged figures were shown to
be as good.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from halfstep.comparison.advice.evidence import RATIOS
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.errors import HalfstepError, UsageError
from halfstep.precisions.recipes import parse

Answer = Literal["holds", "fails", "not_known"]

NO_WORSE = "no worse"

_TERM = re.compile(r"(?P<name>\w+)\s*(?P<sign>>=|<=)\s*(?P<bound>[0-9.]+)\s*[x×]?")
_SHOWN = ("equivalent", "better", "baseline")
_REFUTED = ("worse", "diverged")


@dataclass(frozen=True)
class Term:
    """One thing that a precision has to show."""

    precision: str
    what: str  #: ``no worse``, or ``speed``, ``memory`` or ``energy``
    #: sign, bound: for a ratio, ``>=`` or ``<=`` and the number
    sign: Literal[">=", "<="] = ">="
    bound: float = 1.0


@dataclass(frozen=True)
class Judged:
    """Whether a term holds."""

    term: Term  #: what was required
    answer: Answer  #: ``not_known`` where the data cannot tell
    #: the figure that the answer rests on; the empty reference if the precision was not compared
    evidence: EvidenceRef = field(default_factory=EvidenceRef)


def parse_requirements(texts: Iterable[str]) -> tuple[Term, ...]:
    """The terms of ``PRECISION: TERM, TERM, ...``, each text one precision. Raises UsageError for another form."""
    return tuple(term for text in texts for term in _of_one(text))


def _of_one(text: str) -> list[Term]:
    precision, _, terms = text.rpartition(": ")
    if not precision.strip() or not terms.strip():
        raise UsageError(
            f"{text!r} is no requirement; write PRECISION: TERM, TERM, ... as in "
            "'bf16: no worse, speed >= 1.2, memory <= 0.9'."
        )
    name = str(parse(precision.strip()))
    return [_term(name, part.strip()) for part in terms.split(",")]


def _term(precision: str, text: str) -> Term:
    if text == NO_WORSE:
        return Term(precision, NO_WORSE)
    found = _TERM.fullmatch(text)
    try:
        bound = float(found["bound"]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or found["name"] not in RATIOS or not 0 < bound < math.inf:
        raise UsageError(
            f"{text!r} is no term of a requirement; allowed are 'no worse', and speed, memory or energy with >= or <= "
            "and a number above zero, as in 'speed >= 1.2'."
        )
    return Term(precision, found["name"], ">=" if found["sign"] == ">=" else "<=", bound)


class Unmet(HalfstepError):
    """A comparison did not show what was required of it; the message has a sentence for each term.

    Attributes:
        exit_code: the result of :func:`exit_code`.
    """

    def __init__(self, sentences: Sequence[str], code: int) -> None:
        super().__init__("\n".join(sentences))
        self.exit_code = code


def judge(terms: Sequence[Term], comparison: Comparison) -> list[Judged]:
    """Each term by what the comparison has shown."""
    rows = {row.precision: index for index, row in enumerate(comparison.verdicts)}
    return [_judged(term, rows.get(term.precision), comparison) for term in terms]


def exit_code(judged: Sequence[Judged]) -> int:
    """1 if a term does not hold, 3 if the data cannot tell whether one holds, else 0."""
    answers = {each.answer for each in judged}
    return 1 if "fails" in answers else 3 if "not_known" in answers else 0


def _judged(term: Term, index: int | None, comparison: Comparison) -> Judged:
    not_run = comparison.budget.not_run if comparison.budget else ()
    if term.precision in not_run:
        return Judged(term, "not_known")
    if index is None:
        return Judged(term, "fails")
    row = comparison.verdicts[index]
    if not row.ended_well:
        return Judged(term, "fails", EvidenceRef("verdicts", index, ("status",)))
    if not_run:  # the baseline may be among them
        return Judged(term, "not_known")
    if term.what == NO_WORSE:
        kind = row.quality.kind
        answer: Answer = "holds" if kind in _SHOWN else "fails" if kind in _REFUTED else "not_known"
        return Judged(term, answer, EvidenceRef("verdicts", index, ("quality",)))
    name = RATIOS[term.what]
    return Judged(term, _of_ratio(term, row, name), EvidenceRef("verdicts", index, (name,)))


def _of_ratio(term: Term, row: PrecisionRow, name: str) -> Answer:
    ratio: Ratio | None = getattr(row, name)
    if row.precision == row.baseline:
        ratio = Ratio(1.0, 1.0, 1.0)
    if ratio is None or ratio.low is None or ratio.high is None or ratio.disturbed:
        return "not_known"
    low, high = (ratio.low, ratio.high) if term.sign == ">=" else (-ratio.high, -ratio.low)
    bound = term.bound if term.sign == ">=" else -term.bound
    return "holds" if low >= bound else "fails" if high < bound else "not_known"
