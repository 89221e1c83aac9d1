"""What is recognised, and what is refused in one sentence."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from halfstep.errors import UsageError
from halfstep.program import Target


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("1/0\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("1/0\n")
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "1/0\n")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("other.py", "1/0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "kind"),
    [("train.py", "file"), ("app", "directory"), ("./app/", "directory"), ("app.pyz", "zip")],
)
def test_a_path_is_what_it_is_on_disk(here: Path, program: str, kind: str) -> None:
    target = Target.parse(program, ["--lr", "1"], module=False)
    assert (target.kind, target.given, target.args) == (kind, program, ("--lr", "1"))
    assert target.path == f"{here}/{program}"
    assert target.argv == (program, "--lr", "1")


def test_a_module_is_not_looked_up() -> None:
    target = Target.parse("no.such", [], module=True)
    assert (target.kind, target.path, target.argv) == ("module", None, ("-m",))


def test_a_pipe_is_a_file_and_is_not_read(here: Path) -> None:
    os.mkfifo(here / "pipe")
    assert Target.parse("pipe", [], module=False).kind == "file"


def test_a_missing_file_is_refused(here: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        Target.parse("trian.py", [], module=False)
    assert str(refusal.value) == (
        f"There is no file 'trian.py' in {here}; give the path of a script, or -m and the name of a module."
    )
    assert refusal.value.exit_code == 2
    with pytest.raises(UsageError) as refusal:
        Target.parse("/no/such.py", [], module=False)
    assert str(refusal.value) == (
        "There is no file '/no/such.py'; give the path of a script, or -m and the name of a module."
    )


@pytest.mark.parametrize("program", ["empty", "empty.zip"])
def test_a_folder_or_zip_without_a_program_is_refused(program: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Target.parse(program, [], module=False)
    assert str(refusal.value) == (
        f"'{program}' has no __main__.py, so it cannot be run; name a script, "
        "or a directory or zip with a __main__.py in it."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(here: Path) -> None:
    (here / "train.py").chmod(0)
    with pytest.raises(UsageError, match="'train.py' cannot be read"):
        Target.parse("train.py", [], module=False)
