"""Rows that ran the same leave nothing to choose, whatever their speed seems to be."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.comparison.rows import trial_row
from halfstep.trials import Outcome

from .simulated import outcome
from .told import recommend, told_rows

FALLING = [2.0 - 0.1 * step for step in range(20)]


def trial(precision: str, seconds: float, repeat: int, losses: list[float], **events: Any) -> Outcome:
    made = outcome(precision, losses, repeat=repeat, seconds=[seconds] * len(losses))
    made.record.add({"event": "takeover", "asked": precision, "asked_weights": "fp32"})
    for event, fields in events.items():
        made.record.add({"event": event, **fields})
    return made


def advised(
    rows: dict[str, tuple[float, list[float], dict[str, Any]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two trials of each precision: its step in seconds, its losses, and the events of its record."""
    trials = [
        trial(precision, seconds * (1 + 0.001 * repeat), repeat, losses, **events)
        for repeat in range(2)
        for precision, (seconds, losses, events) in rows.items()
    ]
    found: list[dict[str, Any]] = told_rows(trials, [trial_row(each, (), "") for each in trials])
    return recommend(found), found


#: what a takeover tells of 16-bit products before any has run
PLANNED = [{}, {"software": "TensorFlow"}, {"lists": "cuda"}, {"fp32_units": ["product"]}]


@pytest.mark.parametrize("planned", PLANNED, ids=["nothing", "software", "lists", "fp32 units"])
@pytest.mark.parametrize(
    ("events", "precision", "said"),
    [
        (
            {"sample": {"matmul_flops": {"fp64": 9}}, "stored": {"weights": {"fp64": 8}}},
            None,
            "computes in fp64",
        ),
        (
            {"sample": {"matmul_flops": {}}, "stored": {"weights": {"fp32": 8}}},
            "fp32",
            "makes no matrix product",
        ),
        ({"sample": {"matmul_flops": {"fp32": 9}}}, "fp32", "where the precision does not reach"),
        (
            {"sample": {"absent": "an operation is not known"}},
            "fp32",
            "every loss is the same to the last bit",
        ),
    ],
)
def test_identical_runs_are_no_gain(
    events: dict[str, Any], precision: str | None, said: str, planned: dict[str, Any]
) -> None:
    """bf16 was measured 2.8 times as fast: other load, for it ran the same, whatever was planned for its products."""
    found, rows = advised(
        {"fp32": (0.28, FALLING, events), "bf16": (0.1, FALLING, {"takeover": planned, **events})}
    )
    assert rows[1]["speed_ratio"]["words"] == "2.80× faster"
    assert (found["rule"], found["precision"]) == ("ran_the_same", precision)
    assert said in found["text"]
    assert rows[1]["why_no_faster"] == []


def test_another_precision_is_judged_and_the_identical_one_is_told() -> None:
    same = {"sample": {"matmul_flops": {"fp32": 9}}}
    other = {"sample": {"matmul_flops": {"fp16": 9}}}
    losses = [loss + 1e-6 for loss in FALLING]
    found, _ = advised(
        {"fp32": (0.2, FALLING, same), "bf16": (0.1, FALLING, same), "fp16": (0.1, losses, other)}
    )
    assert found["precision"] == "fp16"
    assert "bf16: ran as fp32; bf16 was asked for" in [reason["text"] for reason in found["reasons"]]


def test_a_loss_that_is_rounded_to_the_same_figures_is_no_proof() -> None:
    events = {"sample": {"absent": "an operation is not known"}}
    found, _ = advised({"fp32": (0.2, [1.0] * 20, events), "bf16": (0.1, [1.0] * 20, events)})
    assert found["rule"] != "ran_the_same"


def test_a_failed_precision_is_told_with_its_reason_whatever_is_advised() -> None:
    events = {
        "fp32": {"sample": {"matmul_flops": {"fp32": 9}}},
        "bf16": {"sample": {"matmul_flops": {"bf16": 9}}},
    }
    trials = [
        trial(precision, seconds, repeat, FALLING, **events[precision])
        for repeat in range(2)
        for precision, seconds in (("fp32", 0.2), ("bf16", 0.3))
    ]
    failed = outcome("fp16", FALLING[:2], status="failed")
    failed.reason = "RuntimeError: Index put requires the source and destination dtypes match"
    rows = [trial_row(each, (), "") for each in (*trials, failed)]
    found = recommend(told_rows([*trials, failed], rows))
    assert found["precision"] == "fp32"
    assert f"fp16: failed, {failed.reason}" in [reason["text"] for reason in found["reasons"]]
