"""What a comparison has to show: how it is written, and how it is judged, against answers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.model.figures import Ratio
from halfstep.comparison.model.quality import Quality
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.requirements import Answer, Term, exit_code, judge, parse_requirements
from halfstep.errors import UsageError
from halfstep.report.words.requirements import requirement_words


def compared(**fields: Any) -> Comparison:
    """fp32, and bf16 with these fields."""
    bf16 = {"precision": "bf16", "baseline": "fp32", "status": "ok"} | fields
    rows = PrecisionRow(precision="fp32", baseline="fp32", status="ok"), PrecisionRow(**bf16)
    return Comparison(verdicts=rows)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("bf16: no worse", [Term("bf16", "no worse")]),
        ("bf16: speed >= 1.2", [Term("bf16", "speed", ">=", 1.2)]),
        ("bf16: speed>=1.2x", [Term("bf16", "speed", ">=", 1.2)]),
        (
            "bf16: memory <= .9×, energy <= 1",
            [Term("bf16", "memory", "<=", 0.9), Term("bf16", "energy", "<=", 1.0)],
        ),
        ("fp16:loss_scale=1024: no worse", [Term("fp16:loss_scale=1024", "no worse")]),
    ],
)
def test_how_it_is_written(text: str, terms: list[Term]) -> None:
    assert parse_requirements([text]) == tuple(terms)


@pytest.mark.parametrize(
    "text",
    ["", "bf16", "bf16:", "speed >= 1.2", "fp17: no worse", "bf16: speed", "bf16: speed > 1", "bf16: speed >= 0", f"bf16: speed >= {'9' * 400}",
     "bf16: speed >= 1.2.3", "bf16: speed >= nan", "bf16: loss <= 3", "bf16: no worse,", "bf16: better"],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_requirements([text])


CASES: list[tuple[str, dict[str, Any], Answer]] = [
    ("speed >= 1.2", {"speed_ratio": Ratio(1.4, 1.2, 1.6)}, "holds"),
    ("speed >= 1.2", {"speed_ratio": Ratio(1.4, 1.19, 1.6)}, "not_known"),
    ("speed >= 1.2", {"speed_ratio": Ratio(1.1, 1.0, 1.19)}, "fails"),
    ("speed <= 1.2", {"speed_ratio": Ratio(1.1, 1.0, 1.2)}, "holds"),
    ("memory <= 0.9", {"memory_ratio": Ratio(0.8, 0.7, 0.9)}, "holds"),
    ("memory <= 0.9", {"memory_ratio": Ratio(0.8, 0.7, 0.95)}, "not_known"),
    ("memory <= 0.9", {"memory_ratio": Ratio(1.0, 0.91, 1.1)}, "fails"),
    ("energy <= 0.9", {"energy_ratio": None, "energy_absent": "no counter"}, "not_known"),
    ("speed >= 1.2", {"speed_ratio": Ratio(5.0)}, "not_known"),
    ("speed >= 1.2", {"speed_ratio": Ratio(5.0, 4.0, 6.0, disturbed=True)}, "not_known"),
    (
        "speed >= 1.2",
        {"status": "failed", "reason": "it raised", "speed_ratio": Ratio(2.0, 1.9, 2.1)},
        "fails",
    ),
    ("no worse", {"quality": Quality("equivalent")}, "holds"),
    ("no worse", {"quality": Quality("better")}, "holds"),
    ("no worse", {"quality": Quality("worse")}, "fails"),
    ("no worse", {"quality": Quality("diverged")}, "fails"),
    ("no worse", {"quality": Quality("no_difference_seen", "no difference seen")}, "not_known"),
    ("no worse", {"quality": Quality("one_seed", "1 seed")}, "not_known"),
]


@pytest.mark.parametrize(("term", "fields", "answer"), CASES)
def test_how_it_is_judged(term: str, fields: dict[str, Any], answer: Answer) -> None:
    comparison = compared(**fields)
    (judged,) = judge(parse_requirements([f"bf16: {term}"]), comparison)
    assert judged.answer == answer
    assert judged.evidence.table == "verdicts"
    assert exit_code([judged]) == {"holds": 0, "fails": 1, "not_known": 3}[answer]
    assert requirement_words(judged, comparison).startswith(f"bf16: {term} ")


def test_what_fails_weighs_more_than_what_is_not_known() -> None:
    comparison = compared(speed_ratio=Ratio(1.1, 1.0, 1.19), quality=Quality("one_seed"))
    assert exit_code(judge(parse_requirements(["bf16: no worse, speed >= 1.2"]), comparison)) == 1


def test_the_baseline_is_as_fast_as_itself() -> None:
    (judged,) = judge(parse_requirements(["fp32: speed >= 1"]), compared())
    assert judged.answer == "holds"


@pytest.mark.parametrize(
    ("text", "fields", "said"),
    [
        ("bf16: speed >= 1.2", {"speed_ratio": Ratio(1.13, 1.08, 1.18)},
         "bf16: speed >= 1.2 does not hold: it is 1.13× (95 % interval 1.08 to 1.18×)."),
        ("bf16: speed >= 1.2", {"speed_ratio": Ratio(2.0)},
         "bf16: speed >= 1.2 is not known to hold: it is 2.00×, of too few trials for an interval; run with --repeats 6 "
         "or more."),
        ("fp16: no worse", {}, "fp16: no worse does not hold: fp16 was not compared; name it in --precisions."),
        ("bf16: no worse", {"status": "timed_out", "reason": "ran longer than 3 s"},
         "bf16: no worse does not hold: it timed out (ran longer than 3 s)."),
        ("bf16: energy <= 1", {"energy_absent": "no counter"},
         "bf16: energy <= 1 is not known to hold: it was not measured (no counter)."),
        ("bf16: no worse", {"quality": Quality("one_seed", "1 seed shows no spread")},
         "bf16: no worse is not known to hold: 1 seed shows no spread; run with more --seeds, or name a --tolerance."),
    ],
)  # fmt: skip
def test_the_sentences(text: str, fields: dict[str, Any], said: str) -> None:
    comparison = compared(**fields)
    (judged,) = judge(parse_requirements([text]), comparison)
    assert requirement_words(judged, comparison) == said
