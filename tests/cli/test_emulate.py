"""``--emulate`` as a user sees it: words on stderr, rows without speed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfstep.record import read

from .running import PROGRAMS, halfstep, python

FAULTY = str(PROGRAMS / "faulty.py")


@pytest.fixture(scope="module")
def emulated(compared: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return compared("--emulate", "--precisions", "fp32,tf32,fp8,mxfp4", FAULTY)


def test_emulated_rows_report_no_speed_memory_or_energy(emulated: dict[str, Any]) -> None:
    told = "an emulated run reports no speed, memory or energy"
    assert [row["emulated"] for row in emulated["trials"]] == [False, True, True, True]
    for row in emulated["trials"][1:]:
        assert row["status"] == "ok"
        assert len(row["losses"]) == row["steps"] == 12
        for figure in (
            "step_seconds",
            "steps_per_second",
            "samples_per_second",
            "peak_memory_bytes",
            "memory",
        ):
            assert row[figure] is None
        assert row["step_times"] == []
        assert row["peak_memory_absent"] == row["memory_absent"] == row["energy_absent"] == told
    assert [row["matmul_share"] for row in emulated["trials"]] == [
        {"fp32": 1.0}, {"tf32": 1.0}, {"fp8": 1.0}, {"mxfp4": 1.0},
    ]  # fmt: skip
    assert all(row["warnings"] == [] for row in emulated["trials"])


def test_its_verdicts_compare_the_loss_alone(emulated: dict[str, Any]) -> None:
    for row in emulated["verdicts"][1:]:
        assert row["speed_ratio"] is row["step_time"] is row["memory_ratio"] is row["peak_memory"] is None
        assert row["loss"]["difference"] is not None
    assert emulated["verdicts"][2]["ran_as"] == "fp8 (e4m3 forward, e5m2 backward), emulated in fp32"
    assert emulated["options"]["emulate"] is True
    page = (emulated["folder"] / "report.html").read_text(encoding="utf-8")
    assert "an emulated run reports no speed, memory or energy" in page
    assert "an emulated run reports no speed" in emulated["done"].stdout


def test_emulation_is_never_silent(tmp_path: Path) -> None:
    done = halfstep("run", "--precision", "fp8", FAULTY)
    assert done.returncode == 2
    assert done.stderr == (
        "halfstep: Precision fp8 cannot run here: halfstep runs it only emulated; --emulate rounds to it inside fp32 "
        "tensors.\n"
    )
    done = halfstep("run", "--precision", "nvfp4", "--emulate", "--record", "r", FAULTY, cwd=tmp_path)
    assert done.stderr == "halfstep: ran as nvfp4, emulated in fp32: 12 steps\n"
    record = read(tmp_path / "r")
    assert record.takeover["emulated"] is True
    assert record.sample["matmul_flops"] == {"nvfp4": 2 * 2 * 32 * 8}


def test_what_runs_here_is_not_emulated(tmp_path: Path) -> None:
    halfstep("run", "--precision", "bf16", "--emulate", "--record", "r", FAULTY, cwd=tmp_path)
    record = read(tmp_path / "r")
    assert record.takeover["emulated"] is False
    assert record.sample["matmul_flops"].keys() == {"bf16"}


def test_enable_takes_the_same_options(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    own = Path(FAULTY).read_text()
    script.write_text("import halfstep\nhalfstep.enable('fp8', emulate=True, record='r')\n" + own)
    assert python(str(script), cwd=tmp_path).returncode == 0
    assert read(tmp_path / "r").takeover["ran_as"].startswith("fp8")


def test_cudas_lists_are_named_in_what_ran(tmp_path: Path) -> None:
    done = halfstep("run", "--precision", "bf16", "--as-on", "cuda", "--record", "r", FAULTY, cwd=tmp_path)
    assert done.returncode == 0
    assert read(tmp_path / "r").takeover["ran_as"].startswith("bf16 with CUDA's autocast lists")
    assert "ran as bf16 with CUDA's autocast lists" in done.stderr
