"""``halfstep report`` and ``halfstep compare --resume``: from the folder alone, finished or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import halfstep as package

from .running import PROGRAMS, halfstep

FAULTY = str(PROGRAMS / "faulty.py")


@pytest.fixture(scope="module")
def begun(compared) -> dict[str, Any]:
    """One trial in fp32."""
    return compared("--precisions", "fp32", "--tolerance", "1%", "--prefer", "memory", FAULTY)


def test_a_report_is_redrawn_from_the_records_alone(begun: dict[str, Any], tmp_path: Path) -> None:
    for name in ("comparison.json", "report.html"):
        (begun["folder"] / name).unlink()
    done = halfstep("report", str(begun["folder"]), "--csv", "c.csv", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["verdicts"] == begun["verdicts"]
    assert again["options"]["tolerance"] == "*=1%"
    assert again["recommendation"]["prefer"] == "memory"
    assert "fp32" in done.stderr, "the table makes way for the JSON"
    assert (begun["folder"] / "report.html").exists()
    steps = (tmp_path / "c-steps.csv").read_text().splitlines()
    assert len([line for line in steps if ",loss," in line]) == begun["trials"][0]["steps"]
    assert package.load(begun["folder"]).verdicts == begun["verdicts"]


def test_resuming_runs_what_is_missing_and_nothing_else(begun: dict[str, Any]) -> None:
    folder = begun["folder"]
    record = folder / "trials" / "fp32-seed0-repeat0.jsonl"
    before = record.read_bytes()
    there = folder.parent
    done = halfstep(
        "compare", "--resume", str(folder), "--seeds", "2", "--json", "again.json", FAULTY, cwd=there
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((there / "again.json").read_text())
    assert [(t["precision"], t["seed"], t["status"]) for t in found["trials"]] == [
        ("fp32", 0, "ok"),
        ("fp32", 1, "ok"),
    ]
    assert record.read_bytes() == before
    assert found["trials"][0] == json.loads(json.dumps(begun["trials"][0]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["compare"],
            "halfstep compare was given no program; name one, or --resume DIR to go on with a comparison.",
        ),
        (
            ["compare", "--resume", "none"],
            "No comparison was begun in 'none' (No such file or directory); give a folder",
        ),
        (["compare", "--resume", "none", "--out", "x"], "No comparison was begun in 'none'"),
        (["compare", "--tolerance", "0", FAULTY], "'0' is not a tolerance; give a number above zero"),
        (["report", "none"], "No comparison in 'none' (No such file or directory); give a folder"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = halfstep(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_was_begun_is_not_begun_again(begun: dict[str, Any]) -> None:
    done = halfstep("compare", "--out", str(begun["folder"]), FAULTY)
    assert done.returncode == 2
    assert (
        "already holds a comparison; give --out a new folder, --resume it, or delete that one." in done.stderr
    )


def test_another_option_is_refused_on_resuming(begun: dict[str, Any]) -> None:
    done = halfstep("compare", "--resume", str(begun["folder"]), "--steps", "3", cwd=begun["folder"].parent)
    assert done.returncode == 2
    assert "was made with steps none, not 3; leave that out to resume it" in done.stderr
    done = halfstep("compare", "--resume", str(begun["folder"]), "--out", "x", cwd=begun["folder"].parent)
    assert done.stderr == "halfstep: --resume DIR goes on in DIR itself; leave --out out.\n"
