"""The formats that are named of what a training holds."""

from __future__ import annotations

from halfstep.record.stored import Stored
from halfstep.report.stored import words


def test_counters_and_indices_are_no_formats() -> None:
    """Of a small model they are a large share of the bytes."""
    small = Stored(
        weights={"fp32": 132}, gradients={"int64": 16, "fp32": 32}, optimizer={"int32": 12, "fp32": 276}
    )
    assert small.formats("optimizer") == small.formats("gradients") == ("fp32",)
    assert words(small) == words(Stored(optimizer={"int64": 8})) == ""
    assert words(Stored(optimizer={"bf16": 99, "fp32": 1, "int32": 4})) == "optimizer bf16 99 B + fp32 1 B"
    assert words(Stored(optimizer={"int8": 1024, "fp32": 16})) == "optimizer int8 1.00 KiB + fp32 16 B"
