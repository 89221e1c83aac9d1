"""Checkpoints: what was killed and resumed is what was never killed; with halfstep and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cli.running import PROGRAMS, halfstep

pytestmark = pytest.mark.long


@pytest.mark.parametrize("precision", ["fp16:growth_interval=3", "fp16-true:growth_interval=3"])
def test_killed_at_many_places_and_resumed_bit_for_bit(tmp_path: Path, precision: str, long: bool) -> None:
    """The scale grows until it overflows, and falls: skipped steps lie between the kills."""
    first = 1 if precision.startswith("fp16:") else 2
    for seed in range(first, first + 10) if long else [first]:
        folder = tmp_path / str(seed)
        folder.mkdir()
        done = halfstep("run", "--precision", precision, str(PROGRAMS / "killed.py"), str(folder), str(seed))
        assert done.returncode == 0, done.stderr
        killed, whole, resumed = done.stdout.splitlines()
        assert int(killed.split()[1]) > 20
        assert resumed == whole
        assert "('skipped_steps', 0)" not in whole
