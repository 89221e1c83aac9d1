"""The script for a GPU runs here, too, in small sizes: it must work when a GPU is there for some minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def evidence(part: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu/evidence.sh"), part], capture_output=True, text=True, check=False,
        env=os.environ | {"OUT": str(folder), "SMALL": "1", "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.mark.long
def test_the_first_command(tmp_path: Path) -> None:
    said = evidence("1", tmp_path)
    assert said.count("exit code 0") == 3, said
    claims = json.loads((tmp_path / "claims.json").read_text())
    assert {row["precision"] for row in claims} == {"python", "as-is", "fp32", "bf16"}
    assert all(row.get("holds", True) for row in claims)
    assert len(json.loads((tmp_path / "beside_amp.json").read_text())["results"]) == 6
    assert (tmp_path / "evidence1.log").read_text() == said


@pytest.mark.long
def test_the_second_command(tmp_path: Path) -> None:
    said = evidence("2", tmp_path)
    assert said.count("exit code 0") == 1, said
    assert json.loads((tmp_path / "small.json").read_text())
    assert "as-is" in (tmp_path / "small.md").read_text()


def test_another_part_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu/evidence.sh"), "3"], capture_output=True, text=True, check=False,
        env=os.environ | {"OUT": str(tmp_path)},
    )  # fmt: skip
    assert "it takes 1 or 2" in done.stderr
