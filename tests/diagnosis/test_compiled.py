"""A compiled run beside the eager one: what differs, and what only compiled code does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from halfstep.diagnosis.compiled import beside, findings_of
from halfstep.record import Record
from halfstep.report.words.diagnosis import compiled_words, worded_finding


def record(losses: list[float | None], **nonfinite: Any) -> Record:
    made = Record(Path("record"))
    for step, loss in enumerate(losses):
        made.add({"event": "step", "step": step, "loss": loss if loss is None else str(loss)})
    if nonfinite:
        made.add({"event": "nonfinite", "what": "loss", **nonfinite})
    return made


@pytest.mark.parametrize(
    ("compiled", "eager", "precision", "differs"),
    [
        (1.0, 1.0, "fp32", False),
        (1.0 + 2.0**-19, 1.0, "fp32", False),
        (1.0 + 2.0**-17, 1.0, "fp32", True),
        (1.0 + 2.0**-17, 1.0, "bf16", False),
        (1.25, 1.0, "bf16", True),
        (math.nan, 1.0, "fp32", True),
        (math.nan, math.nan, "fp32", False),
        (None, 1.0, "fp32", None),
    ],
)
def test_the_first_step_differs_by_more_than_roundings(
    compiled: float | None, eager: float, precision: str, differs: bool | None
) -> None:
    assert beside(record([compiled]), record([eager]), precision, "ok", "").differs is differs


def test_what_only_compiled_code_does_is_a_finding() -> None:
    words = "in net.2 (forward, compiled_function)"
    ours = record([1.0, 0.9, math.nan, math.nan], words=words, module="net.2")
    run = beside(ours, record([1.0, 0.9, 0.8, math.nan]), "bf16", "ok", "")
    assert (run.only_compiled, run.only_eager, run.losses) == (2, None, (1.0, 0.9, None, None))
    (finding,) = findings_of(run)
    assert (finding.kind, finding.where, finding.step) == ("nan_source", "net.2", 2)
    assert words in worded_finding(finding).evidence
    assert "the same to within rounding" in compiled_words(run)


def test_what_both_do_is_none_of_compiled_codes() -> None:
    run = beside(record([math.nan]), record([math.nan]), "fp16", "ok", "")
    assert findings_of(run) == []


def test_nan_of_eager_code_alone_is_said() -> None:
    run = beside(record([1.0, 0.5]), record([1.0, math.inf]), "fp16", "ok", "")
    assert findings_of(run) == []
    assert "eagerly alone the loss is not finite at step 2" in compiled_words(run)
