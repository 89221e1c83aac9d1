"""One case a rule of the table, and what each reason rests on."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.advice import RULES, recommend


def verdict(precision: str, speed: float | None = None, **more: Any) -> dict[str, Any]:
    """A row as compare.py writes it; ``speed`` is the ratio to fp32, significant if it is not 1."""
    ratio = None
    if speed is not None:
        words = (
            "not significant"
            if speed == 1
            else f"{speed:.2f}× faster"
            if speed > 1
            else f"{1 / speed:.2f}× slower"
        )
        ratio = {
            "value": speed,
            "low": speed - 0.02,
            "high": speed + 0.02,
            "significant": speed != 1,
            "words": words,
        }
    row = {
        "precision": precision,
        "baseline": "fp32",
        "status": "ok",
        "reason": "",
        "ran_as": precision,
        "trials": 2,
        "speed_ratio": ratio,
        "memory_ratio": None,
        "loss": None if ratio is None else loss(0.001),
        "skipped_steps": 0,
    }
    return row | more


def loss(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"difference": {"value": value, "low": low, "high": high, "fall": 1.0}, "words": f"{value:+.3f}"}


FP32 = verdict("fp32")
SMALL = {"value": 0.6, "low": 0.6, "high": 0.6, "significant": True, "words": "0.60× memory"}

CASES = [
    (
        "_nothing_ran",
        [verdict("fp32", baseline=None, status="failed", reason="boom")],
        None,
        "No trial ran to its end",
    ),
    (
        "_alone",
        [FP32, verdict("bf16", status="diverged", reason="nan")],
        "fp32",
        "Stay with fp32: it alone ran",
    ),
    ("_fast_and_close", [FP32, verdict("bf16", 1.9), verdict("fp16", 1.5)], "bf16", "Use bf16: 1.90× faster"),
    ("_fast_and_close", [FP32, verdict("bf16", 1.85), verdict("fp16", 1.9)], "bf16", "Use bf16"),
    ("_fast_and_close", [FP32, verdict("bf16", 1.0), verdict("fp16", 1.9)], "fp16", "Use fp16"),
    (
        "_fast_and_close",
        [FP32, verdict("bf16", 1.9, loss=loss(0.2)), verdict("fp16", 1.5)],
        "fp16",
        "Use fp16",
    ),
    ("_fast_but_apart", [FP32, verdict("bf16", 1.9, loss=loss(0.2))], None, "Undecided: bf16 is faster"),
    (
        "_fast_but_apart",
        [FP32, verdict("bf16", 1.9, loss=loss(0.01, 0.005, 0.015))],
        None,
        "run with --seeds 5",
    ),
    ("_not_faster", [FP32, verdict("bf16", 1.0), verdict("fp16", 0.5)], "fp32", "Stay with fp32: no other"),
    ("_not_faster", [FP32, verdict("bf16", 1.0, memory_ratio=SMALL)], "fp32", "bf16 needs 0.60× of it"),
]


@pytest.mark.parametrize(("rule", "verdicts", "precision", "text"), CASES)
def test_a_case_a_rule(rule: str, verdicts: list[dict[str, Any]], precision: str | None, text: str) -> None:
    found = recommend(verdicts)
    assert found["precision"] == precision
    assert text in found["text"]
    assert (found["adopt"] is None) is (precision is None)
    for reason in found["reasons"]:
        index = int(reason["evidence"].split("[")[1].split("]")[0])
        row: Any = verdicts[index]
        for part in reason["evidence"].split("].")[1].split("."):
            row = row[part]
        assert row is not None, "every reason rests on a figure"


def test_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for rule, *_ in CASES}


def test_adopted_code_compiles_and_names_the_precision() -> None:
    for name in ("bf16", "fp16"):
        code = recommend([FP32, verdict(name, 2.0)])["adopt"]["code"]
        compile(code, name, "exec")
        assert f'halfstep.enable("{name}")' in code
        assert {"bf16": "torch.bfloat16", "fp16": "torch.float16"}[name] in code
    assert "halfstep.enable" in recommend([FP32, verdict("fp16:loss_scale=8", 2.0)])["adopt"]["code"]
