"""The gallery's figures: each from the comparison it stands on, and none where none was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import gallery_tables as tables  # noqa: E402
from gallery_cases import CASES, Case  # noqa: E402

STEP = {"median": 0.5, "low": 0.4, "high": 0.8}
CASE = Case("A case", "program.py", unit="tokens", per_sample=128)


def trial(precision: str = "fp32", seconds: float = 0.5, **changed: Any) -> dict[str, Any]:
    """A trial of 8 samples a step, whose warm-up took ten times as long."""
    made = {
        "precision": precision, "status": "ok", "samples_per_second": 8 / seconds,
        "step_seconds": {"median": seconds}, "step_times": [10 * seconds] * 5 + [seconds] * 20, "warmup_steps": 5,
        "matmul_flops": {"fp32": 1_000_000_000}, "joules_per_step": None, "joules_per_step_absent": "no counter",
    }  # fmt: skip
    return made | changed


def verdict(precision: str = "fp32", **changed: Any) -> dict[str, Any]:
    """A verdict that has every figure but energy."""
    made = {
        "precision": precision, "status": "ok", "reason": "", "ran_as": precision, "trials": 2, "steps": 25,
        "step_time": STEP, "speed_ratio": None, "peak_memory": {"median": 2.0**20, "low": 2.0**20, "high": 2.0**20},
        "memory_ratio": None, "energy": None, "loss": {"final": {"median": 1.0, "low": 0.9, "high": 1.1}},
        "quality": {"words": "the baseline (2 seeds)"},
    }  # fmt: skip
    return made | changed


def test_a_rate_has_the_interval_of_the_step_time() -> None:
    assert tables.rate(STEP, [trial()], 128) == {"median": 2048.0, "low": 1280.0, "high": 2560.0}
    assert tables.rate(None, [trial()], 128) is None
    assert tables.rate(STEP, [trial(samples_per_second=None)], 128) is None


def test_the_share_of_the_peak_is_of_the_units_that_the_products_ran_in() -> None:
    peaks = {"fp32": {"flops_per_second": 4e9}, "bf16": {"flops_per_second": 8e9}}
    bf16 = [trial(matmul_flops={"bf16": 900_000_000, "fp32": 100_000_000})]
    assert tables.utilisation(verdict(), [trial()], peaks) == {
        "value": 0.5,
        "low": 0.3125,
        "high": 0.625,
        "of": "fp32",
    }
    assert (tables.utilisation(verdict(), bf16, peaks) or {})["value"] == 0.25
    emulating = verdict(ran_as="bf16, products in fp32 units")
    assert (tables.utilisation(emulating, bf16, peaks) or {})["of"] == "fp32"
    assert tables.utilisation(verdict(), bf16, {"fp32": {"flops_per_second": 4e9}}) is None


def test_the_ratio_to_the_loop_written_by_hand_leaves_the_warm_up_out() -> None:
    trials = [trial(p, s) for p, s in (("as-is", 0.9), ("bf16", 0.6), ("as-is", 0.9), ("bf16", 0.6))]
    ratio = tables.over_hand_written({"trials": trials}, "bf16")
    assert ratio is not None
    assert ratio["value"] == pytest.approx(1.5)
    assert ratio["low"] is not None
    assert tables.over_hand_written({"trials": trials}, "as-is") is None
    assert tables.over_hand_written({"trials": trials[1:2]}, "bf16") is None


def test_what_was_not_measured_says_so_and_why() -> None:
    found = list(tables.rows(CASE, {"verdicts": [verdict()], "trials": [trial(), trial()]}, {}))
    text = tables.table(CASE, found, "Stay with fp32.")
    header, _, row = text.splitlines()[4:7]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["J/step"] == cells["of peak"] == "not measured"
    assert "- J/step: no counter" in text
    assert cells["tokens/s"] == "2048 (1280–2560)"
    assert cells["final loss"] == "1.00 ± 0.10"
    assert "over hand-written" not in cells


def test_a_precision_that_failed_is_a_row_with_its_reason() -> None:
    bad = verdict(
        "fp16", status="failed", reason="ValueError: a | b", step_time=None, peak_memory=None, loss=None
    )
    found = list(tables.rows(CASE, {"verdicts": [verdict(), bad], "trials": [trial()]}, {}))
    text = tables.table(CASE, found, "Stay with fp32.")
    assert "| `fp16` | not measured |" in text
    assert "- `fp16`: ValueError: a | b" in text


def test_a_case_for_a_gpu_stands_there_with_what_others_published() -> None:
    case = next(case for case in CASES if case.name == "GPT-2 124M, hand-written bf16")
    assert case.unavailable(gpu=False) == "needs a GPU, and there is none here"
    text = tables.missing(case, case.unavailable(gpu=False))
    assert "Not measured: needs a GPU" in text
    assert "| llm.c, bf16 | H100 | 468k tokens/s |" in text


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_through_and_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "benchmarks/gallery.py", "--only", "small resnet, hand-written bf16", "--seeds", "1",
        "--steps", "12", "--out", str(out), "--json", str(tmp_path / "g.json"), "--markdown", str(tmp_path / "g.md"),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    first = json.loads((tmp_path / "g.json").read_text())["cases"]
    assert [row["precision"] for row in first[0]["rows"]] == ["fp32", "bf16", "as-is"]
    again = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert f"{out} holds an earlier run; give --resume to go on with it, or another --out." in again.stderr
    # One trial is lost: only that one is run again, and all other figures stay as they are.
    lost = list(out.glob("*/trials/bf16*"))
    for path in lost:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/trials/*.end.json")}
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(kept) == 2
    assert lost
    assert all(path.exists() for path in lost)
    then = json.loads((tmp_path / "g.json").read_text())["cases"]
    assert then[0]["rows"][0]["step_time"] == first[0]["rows"][0]["step_time"]
