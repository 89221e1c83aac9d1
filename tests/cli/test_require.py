"""``--require``, ``[tool.halfstep]``, the fixture of pytest, and the table as Markdown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import halfstep as package
from halfstep.cli.project import required_by_project
from halfstep.comparison.requirements import Unmet, parse_requirements
from halfstep.errors import UsageError

from .running import PROGRAMS, halfstep

FAULTY = str(PROGRAMS / "faulty.py")


@pytest.fixture(scope="module")
def both(compared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """fp32 and bf16, one trial each: fp32 is as fast as itself."""
    markdown = tmp_path_factory.mktemp("markdown") / "table.md"
    options = ("--precisions", "fp32,bf16", "--require", "fp32: speed >= 1", "--markdown", str(markdown))
    return compared(*options, FAULTY) | {"markdown": markdown}


def test_what_holds_is_said_and_the_exit_code_is_0(both: dict[str, Any]) -> None:
    assert both["done"].returncode == 0, both["done"].stderr
    assert "fp32: speed >= 1 holds: fp32 is the baseline." in both["done"].stdout


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        ("fp32: speed >= 1", 0, ""),
        ("fp32: speed >= 2", 1, "halfstep: fp32: speed >= 2 does not hold: fp32 is the baseline."),
        ("bf16: no worse", 3, "halfstep: bf16: no worse is not known to hold: "),
        ("bf16: speed >= 1.2", 3, "halfstep: bf16: speed >= 1.2 is not known to hold: it is "),
        ("fp16: no worse", 1, "fp16 was not compared; name it in --precisions."),
        ("bf16: fast", 2, "halfstep: 'fast' is no term of a requirement"),
    ],
)
def test_the_exit_code_tells(both: dict[str, Any], rule: str, code: int, said: str, tmp_path: Path) -> None:
    done = halfstep("report", "--require", rule, str(both["folder"]), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_requires_by_its_pyproject(both: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.halfstep]\nrequire = ["bf16: no worse", "fp32: speed >= 2"]\n'
    )
    done = halfstep("report", str(both["folder"]), cwd=tmp_path)
    assert done.returncode == 1
    assert "bf16: no worse is not known to hold" in done.stderr
    assert "fp32: speed >= 2 does not hold" in done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("[tool.other]\nx = 1\n", ()),
        ("this is no TOML", ()),
        ("[tool.halfstep]\n", ()),
        ('[tool.halfstep]\nrequire = ["bf16: no worse"]\n', ("bf16: no worse",)),
        ('[tool.halfstep]\nrequire = "bf16: no worse"\n', None),
        ("[tool.halfstep]\nrequire = [1]\n", None),
        ("[tool.halfstep]\nseeds = 5\n", None),
        ("[tool]\nhalfstep = 3\n", None),
        ('[tool.halfstep]\nrequire = ["bf16: fast"]\n', None),
        ('[tool.halfstep]\nrequire = ["bf17: no worse"]\n', None),
        (f'[tool.halfstep]\nrequire = "{"x" * 100_000}"\n', None),
        (f"a = {'[' * 5000}{']' * 5000}\n", ()),
        (f"a = {'9' * 5000}\n", ()),
    ],
)
def test_the_table_of_a_pyproject(text: str, found: tuple[str, ...] | None, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    if found is None:
        with pytest.raises(UsageError, match=r"\[tool.halfstep\] in pyproject.toml: .*") as raised:
            required_by_project(tmp_path)
        assert len(str(raised.value)) < 400
    else:
        assert required_by_project(tmp_path) == parse_requirements(found)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
def test_a_pyproject_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pyproject.toml")
    assert required_by_project(tmp_path) == ()


@pytest.mark.parametrize("where", ["--require", "[tool.halfstep] in pyproject.toml"])
def test_a_requirement_on_what_is_not_compared_is_refused_before_any_trial(
    tmp_path: Path, where: str
) -> None:
    required = ["--require", "bf16: no worse"] if where == "--require" else []
    if not required:
        (tmp_path / "pyproject.toml").write_text('[tool.halfstep]\nrequire = ["bf16: no worse"]\n')
    done = halfstep("compare", "--precisions", "fp32", *required, "--out", "o", FAULTY, cwd=tmp_path)
    assert done.returncode == 2
    assert f"halfstep: {where} names bf16, which is not compared; --precisions has fp32." in done.stderr
    assert not list(tmp_path.glob("o/trials/*"))


def test_a_comparison_read_back_may_be_required_to_show_something(both: dict[str, Any]) -> None:
    found = package.load(both["folder"])
    assert found.require("fp32: speed >= 1") == ["fp32: speed >= 1 holds: fp32 is the baseline."]
    with pytest.raises(Unmet, match="bf16: no worse is not known to hold") as raised:
        found.require("fp32: speed >= 1", "bf16: no worse")
    assert raised.value.exit_code == 3
    assert "fp32" not in str(raised.value)


def test_the_table_as_markdown(both: dict[str, Any], tmp_path: Path) -> None:
    lines = both["markdown"].read_text().splitlines()
    assert lines[0] == f"**{both['recommendation']['headline']}**"
    head, rule, fp32, bf16 = lines[2:6]
    assert head.startswith("| precision | status | step time | speed |")
    assert set(rule) == set("| -")
    assert fp32.startswith("| fp32 | ok |")
    assert bf16.startswith("| bf16 | ok |")
    assert len({line.replace("\\|", "").count("|") for line in (head, rule, fp32, bf16)}) == 1
    done = halfstep("report", "--markdown", "-", str(both["folder"]), cwd=tmp_path)
    assert done.stdout.splitlines() == lines


def test_markdown_alone_goes_to_stdout(tmp_path: Path) -> None:
    options = ("--precisions", "fp32", "--steps", "3", "--out", "out", "--markdown", "-")
    done = halfstep("compare", *options, FAULTY, cwd=tmp_path)
    assert done.stdout.startswith("**")
    assert "ran as fp32" not in done.stdout
    assert "ran as fp32" in done.stderr


TESTS = """
from halfstep.testing import halfstep_compare

def test_holds(halfstep_compare):
    found = halfstep_compare({program!r}, precisions="fp32", require=["fp32: speed >= 1, memory <= 1"])
    assert found.verdicts[0]["status"] == "ok"

def test_fails(halfstep_compare):
    halfstep_compare({program!r}, precisions="fp32", steps=3, require="fp32: speed >= 2")
"""


def test_a_comparison_as_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(program=FAULTY))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "fp32: speed >= 2 does not hold: fp32 is the baseline." in done.stdout


def test_the_fixture_is_known_to_pytest() -> None:
    written = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\nhalfstep = "halfstep.testing"' in written
