"""The advice for a comparison, by the table of rules, as values; :mod:`halfstep.report.words.advice` words it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halfstep.comparison.advice.adopt import Script, adopt
from halfstep.comparison.advice.batches import Batches
from halfstep.comparison.advice.claims import Claim, left_over
from halfstep.comparison.advice.evidence import Evidence
from halfstep.comparison.advice.rules import RULES, Answer
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.model.recommendation import Adopt, Prefer, Recommendation
from halfstep.comparison.model.verdicts import PrecisionRow


@dataclass(frozen=True)
class Advice:
    """What the rules say: the name of the rule that answered, its answer, the evidence, and every claim."""

    rule: str
    answer: Answer
    evidence: Evidence
    claims: tuple[Claim, ...]


def advise(
    rows: Sequence[PrecisionRow], prefer: Prefer = "speed", fit: Fit | None = None, by_budget: bool = False
) -> Advice:
    """The advice for a comparison.

    Args:
        fit: the largest batches, where they were searched.
        by_budget: whether the comparison decides on seeds and repeats itself.
    """
    evidence = Evidence.of(rows, prefer, Batches.of(fit), by_budget)
    rule, answer = next((r, answer) for r in RULES if (answer := r(evidence)) is not None)
    cited = {claim.evidence for claim in answer.claims}
    more = [claim for claim in left_over(evidence) if claim.evidence not in cited]
    return Advice(rule.__name__, answer, evidence, (*answer.claims, *more))


def recommend(
    rows: Sequence[PrecisionRow],
    script: Script | None = None,
    prefer: Prefer = "speed",
    fit: Fit | None = None,
) -> Recommendation:
    """The recommendation for a comparison's rows, and the lines to adopt it; without words."""
    advice, script = advise(rows, prefer, fit), script or Script()
    precision = advice.answer.precision
    # What the script does by itself needs no lines.
    lines = precision is not None and precision != "as-is"
    slow = any(row.ran.in_fp32_units for row in rows if row.precision == precision)
    return Recommendation(
        decided=advice.answer.decided,
        precision=precision,
        prefer=prefer,
        rule=advice.rule,
        adopt=Adopt(script.framework, adopt(str(precision), script, slow)) if lines else None,
    )
