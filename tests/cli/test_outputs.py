"""Where a command writes: folders of comparisons that begin together are apart."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from halfstep.cli.outputs import held, new_folder
from halfstep.errors import UsageError


def test_comparisons_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: new_folder(None, "train.py"), range(8)))
    names = ["train-20260101-000000", *(f"train-20260101-000000-{n}" for n in range(2, 9))]
    assert sorted(folder.name for folder in found) == names
    assert all(folder.parent == tmp_path / "halfstep-out" for folder in found)
    assert all((folder / "trials").is_dir() for folder in found)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halfstep-out").write_text("a file")
    with pytest.raises(
        UsageError, match=r"^Cannot write to the folder '.*train-.*' \(Not a directory\); give --out"
    ):
        new_folder(None, "train.py")


def test_a_folder_is_held_once_and_by_no_child_that_lives_on(tmp_path: Path) -> None:
    with held(tmp_path):
        child = subprocess.Popen(["sleep", "60"])
        with pytest.raises(UsageError) as told, held(tmp_path):
            pass
    assert str(told.value) == (
        f"Another halfstep is running in {str(tmp_path)!r}; wait until it has ended, or give --out another folder."
    )
    with child, held(tmp_path):
        assert child.poll() is None
        child.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "an empty file, which is used again"


def test_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path), held(tmp_path):
        pass
