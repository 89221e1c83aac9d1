"""``halfstep compare --fit-batch``: real trials of a program that allocates by its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .running import PROGRAMS

MIB = 2**20


@pytest.mark.long
@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU has memory of its own to fit into")
def test_the_largest_batch_is_found_by_trials(compared: Callable[..., dict[str, Any]]) -> None:
    """A sample keeps 256 KiB in fp32, and as much again at the backward pass's height, over some 330 MiB."""
    found = compared(
        *("--precisions", "fp32", "--steps", "4", "--fit-batch", "samples=--batch-size"),
        *("--memory-limit", "800MiB", str(PROGRAMS / "batches.py"), "--batch-size", "600"),
    )
    fit = found["fit_batch"]
    assert (fit["name"], fit["argument"]) == ("samples", "--batch-size")
    assert fit["memory_limit_bytes"] == 800 * MIB
    (row,) = fit["rows"]
    assert row["reason"] == ""
    assert row["trials"][0]["size"] == 600  # the program's own
    assert 300 < row["largest"] < row["fails_at"] < 1900
    peaks = {
        trial["size"]: trial["peak_resident_bytes"] for trial in row["trials"] if trial["status"] == "ok"
    }
    assert max(peaks.values()) <= 800 * MIB
    assert peaks[row["largest"]] > 600 * MIB
    over = [trial for trial in row["trials"] if trial["status"] == "out_of_memory"]
    assert all("limit of" in trial["reason"] for trial in over)
    assert "Largest batch that fits into 800 MiB, by --batch-size" in found["done"].stdout
    assert (found["folder"] / row["trials"][0]["log"]).exists()
