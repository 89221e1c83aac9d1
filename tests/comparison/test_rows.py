"""A trial as a row: a warning where products ran in something else than what was asked for, and only there."""

from __future__ import annotations

import pytest

from halfstep import codec
from halfstep.comparison.rows import trial_row
from halfstep.comparison.statistics.tolerance import Tolerance
from halfstep.comparison.verdicts import verdicts

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


def test_of_a_damaged_record_nothing_is_absent_because_no_step_was_made() -> None:
    """The trial made steps; its record cannot tell how many."""
    trial = outcome("bf16", [1.0] * 40)
    trial.record.add({"event": "lost", "lines": 9, "why": "No space left on device"})
    trial = trial.trusted()
    row = codec.write(trial_row(trial, (), ""))
    reason = "its record cannot be used: 9 lines of it could not be written (No space left on device)"
    assert (row["status"], row["reason"]) == ("damaged", reason)
    told = {name: why for name, why in row.items() if name.endswith("_absent") and why}
    assert {"step_seconds_absent", "peak_memory_absent"} <= told.keys()
    assert {w for why in told.values() for w in (why.values() if isinstance(why, dict) else [why])} == {
        reason
    }
    (said,) = verdicts([trial], [trial_row(trial, (), "")], Tolerance())
    assert (said.step_time_absent, said.peak_memory_absent) == (reason, reason)
