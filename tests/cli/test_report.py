"""``halfstep report`` and ``halfstep compare --resume``: from the folder alone, finished or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import halfstep as package
from halfstep.comparison import archive
from halfstep.comparison.environment import this_machine
from halfstep.comparison.request import Request, save
from halfstep.options import DEFAULTS
from halfstep.record import SCHEMA, Record, Writer
from halfstep.trials import Outcome, Trial

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


@pytest.fixture
def without_plotly(tmp_path: Path) -> dict[str, str]:
    """An environment in which plotly cannot be imported."""
    stub = tmp_path / "modules" / "plotly"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('no plotly')\n")
    return {"PYTHONPATH": str(stub.parent)}


@pytest.mark.parametrize("command", ["report", "compare", "diagnose"])
def test_without_plotly_all_but_the_page_is_there(
    command: str, begun: dict[str, Any], without_plotly: dict[str, str], tmp_path: Path
) -> None:
    given = {
        "report": ["report", str(begun["folder"])],
        "compare": ["compare", "--precisions", "fp32", "--steps", "3", "--out", "out", FAULTY],
        "diagnose": ["diagnose", "--precision", "bf16", "--steps", "3", "--out", "out", FAULTY],
    }[command]
    done = halfstep(given[0], "--json", "c.json", *given[1:], cwd=tmp_path, env=without_plotly)
    assert done.returncode == 0, done.stderr
    assert "halfstep: The page is left out: plotly is not installed; pip install plotly" in done.stderr
    assert "bf16" in done.stdout if command == "diagnose" else "fp32" in done.stdout
    assert json.loads((tmp_path / "c.json").read_text())


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


def test_the_command_that_goes_on_is_run_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied from a narrow terminal into a shell, in another folder, with spaces, quotes and more in every name."""
    there, elsewhere = tmp_path / 'it\'s "$HOME"  here', tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    (there / "my  prog's.py").write_text(
        "import json, sys\njson.dump(sys.argv[1:], open('argv.json', 'w'))\n"
    )
    arguments = ["--name", 'a "b"  $c', "it's", "", "*"]
    folder = there / "o  '$u\"t"
    monkeypatch.chdir(there)
    request = Request(
        "my  prog's.py", tuple(arguments), False, ("fp32", "bf16"), DEFAULTS, 1, 1, None, "", folder
    )
    save(request, this_machine())
    Writer(request.job.record(Trial("fp32"))).write(
        "start", schema=SCHEMA, precision="fp32", seed=0, repeat=0
    )
    archive.keep(
        request, Outcome(Trial("fp32"), "failed", "it", 1, Record(request.job.record(Trial("fp32"))))
    )
    printed = halfstep("report", str(folder), cwd=elsewhere, env={"COLUMNS": "40"}).stdout
    line = next(line for line in printed.splitlines() if line.startswith("next "))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", line.removeprefix("next ")],
        cwd=elsewhere, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert json.loads((there / "argv.json").read_text()) == arguments
    assert package.load(folder).data["missing"] == []
