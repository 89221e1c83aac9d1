"""References to figures: written and read as text, and each leads to the figure that its sentence is about."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, get_args

import numpy as np
import pytest

from halfstep import codec
from halfstep.comparison.advice import recommend as advice
from halfstep.comparison.advice.claims import ClaimKind
from halfstep.comparison.advice.rules import RULES
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.model.recommendation import Prefer
from halfstep.comparison.model.references import EvidenceRef
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report.words import advice as words
from halfstep.report.words import claims
from halfstep.report.words.advice import worded

from ...report.sample import comparison, metered
from ..advice.test_advice_truth import capacities, drawn, searched

REFERENCES = {
    "verdicts[1].speed_ratio": EvidenceRef("verdicts", 1, ("speed_ratio",)),
    "verdicts[2].why_no_faster[3]": EvidenceRef("verdicts", 2, ("why_no_faster", 3)),
    "trials[0].memory.weights": EvidenceRef("trials", 0, ("memory", "weights")),
    "fit_batch.rows[4].largest": EvidenceRef("fit_batch.rows", 4, ("largest",)),
    "": EvidenceRef(),
}


@pytest.mark.parametrize(("text", "reference"), REFERENCES.items())
def test_a_reference_is_written_and_read_as_text(text: str, reference: EvidenceRef) -> None:
    assert reference.as_text() == text
    assert EvidenceRef.from_text(text) == reference


@pytest.mark.parametrize(
    "text", ["verdicts", "verdicts[x].loss", "verdicts[-1].loss", "rows[0].loss", "trials[0].a b"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        EvidenceRef.from_text(text)


def figure(comparison: Comparison, reference: EvidenceRef) -> Any:
    """What the reference leads to; None where there is no such row or field."""
    rows: dict[str | None, Any] = {"verdicts": comparison.verdicts, "trials": comparison.trials}
    rows["fit_batch.rows"] = comparison.fit_batch.rows if comparison.fit_batch else ()
    try:
        found = rows[reference.table][reference.row]
        for part in reference.path:
            found = getattr(found, str(part)) if is_dataclass(found) else found[part]
    except (KeyError, IndexError, AttributeError, TypeError):
        return None
    return found


def test_every_reference_of_a_comparison_leads_to_a_figure() -> None:
    found = codec.read(Comparison, metered(comparison()))
    told = [reason.evidence for reason in found.recommendation.reasons]
    told += [entry.evidence for row in found.verdicts for entry in (*row.why_no_faster, *row.why_memory)]
    assert len(told) > 8
    for evidence in told:
        assert figure(found, evidence) is not None, evidence
    assert figure(found, EvidenceRef("verdicts", 99, ("loss",))) is None
    assert figure(found, EvidenceRef("verdicts", 0, ("nothing",))) is None
    assert figure(found, EvidenceRef()) is None


@pytest.mark.parametrize("prefer", ["speed", "memory", "energy", "accuracy"])
def test_every_reason_of_the_advice_leads_to_the_figure_that_it_rests_on(prefer: Prefer) -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        verdicts = drawn(random)
        fit = codec.read(Fit, searched(capacities(random, verdicts), 8))
        rows = tuple(codec.read(PrecisionRow, verdict) for verdict in verdicts)
        found = Comparison(verdicts=rows, fit_batch=fit)
        told = worded(advice.recommend(rows, prefer=prefer, fit=fit), advice.advise(rows, prefer, fit))
        for reason in told.reasons:
            assert figure(found, reason.evidence) is not None, reason


def test_every_rule_and_every_claim_has_its_sentence() -> None:
    assert {rule.__name__ for rule in RULES} == set(words._BECAUSE)
    assert set(get_args(ClaimKind)) == set(claims._CLAIMS)
