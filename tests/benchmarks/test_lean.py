"""The benchmark of ``bf16-lean`` runs, on layers so small that its figures say nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

import lean


@pytest.mark.long
def test_it_measures_bytes_speed_and_distance(capsys: pytest.CaptureFixture[str]) -> None:
    found = lean.main(["--small", "--rounds", "1", "--optimizers", "AdamW", "--no-compile"])
    assert found["memory"].keys() == {f"AdamW, {mode}" for mode in lean.MODES}
    assert found["distance"]["bf16-lean"]["largest_distance"] < 0.01
    assert "a step over bf16's" in capsys.readouterr().out


def test_ratios_are_taken_round_by_round() -> None:
    found = lean.ratios([1.0, 4.0, 3.0], [2.0, 4.0, 2.0])
    assert found == {"median": 1.0, "low": 0.5, "high": 1.5, "rounds": 3}


def test_parts_that_are_not_run_stay_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lean, "PARTS", {"memory": lambda options: {"a": 1}, "speed": lambda options: {"b": 2}}
    )
    written = tmp_path / "lean.json"
    for part in ("memory", "speed"):
        lean.main(["--parts", part, "--json", str(written)])
    assert json.loads(written.read_text())["results"] == {"memory": {"a": 1}, "speed": {"b": 2}}


def test_the_ideal_of_adamw_and_bytes_by_part() -> None:
    """Weights 2, remainder 2, gradients 2 and moments 8, over 4, 4, 8 and casts of 2; sums of gradients are fp32."""
    found = [lean.ideal(mode, 8) for mode in lean.MODES]
    assert found == [14 / 16, 14 / 18, 16 / 18]
    run = {
        "parameters": 10,
        "phases": {"step": 143},
        "stored": {
            "weights": {"bf16": 20, "remainder16": 20},
            "gradients": {"bf16": 20},
            "optimizer": {"fp32": 80},
        },
    }
    parts = {"remainder": 2.0, "weights": 2.0, "gradients": 2.0, "state": 8.0, "workspace": 0.3}
    assert lean.parts(run) == pytest.approx(parts)
