"""A trial as a row: a warning where products ran in something else than what was asked for, and only there."""

from __future__ import annotations

import pytest

from halfstep.comparison.rows import trial_row

from .simulated import outcome


@pytest.mark.parametrize(
    ("precision", "asked", "flops", "said"),
    [
        ("bf16-lean", "bf16", {"bf16": 9}, ()),
        ("bf16-sr", "bf16", {"bf16": 9}, ()),
        ("fp16-true", "fp16", {"fp16": 6, "fp32": 4}, ()),
        ("mxfp8", "mxfp8", {"mxfp8": 9}, ()),
        (
            "bf16-lean",
            "bf16",
            {"fp32": 3, "bf16": 1},
            ("asked for bf16, but only 25% of the matrix-product FLOPs ran in it (75% in fp32)",),
        ),
        ("as-is", "", {"fp32": 3}, ()),
    ],
)
def test_products_that_ran_otherwise_are_warned_of(
    precision: str, asked: str, flops: dict[str, int], said: tuple[str, ...]
) -> None:
    trial = outcome(precision, [1.0] * 10)
    trial.record.add({"event": "takeover", "asked": asked})
    trial.record.add({"event": "sample", "matmul_flops": flops})
    assert trial_row(trial, (), "").warnings == said
