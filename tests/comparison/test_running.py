"""A folder that is gone, and a disk that is full, end no comparison: what can be run and kept is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfstep.comparison import archive, running
from halfstep.comparison.request import Request, stored
from halfstep.report.compared import compare
from halfstep.trials import Job, Trial, run_trial

from .test_archive import Quiet
from .test_archive import ran as ran
from .test_archive import request_ as request_


class Told(Quiet):
    """A display that remembers what ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str]] = []

    def finish(self, *said: str) -> None:
        self.ended.append((said[0], said[1], said[2]))


def failing(times: int) -> Callable[..., None]:
    """Writes nothing the first ``times`` times."""
    calls: list[int] = []
    original = archive.write_whole

    def write(path: Path, text: str) -> None:
        calls.append(1)
        if len(calls) <= times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, text)

    return write


@pytest.mark.parametrize("times", [3, 1000])
def test_a_full_disk_is_said_once_and_the_trials_go_on(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    write = failing(times)
    for module in ("comparison.archive", "comparison.request", "report.compared"):
        monkeypatch.setattr(f"halfstep.{module}.write_whole", write)
    told = Told()
    found: Any = compare(request_, told)
    assert len(ran) == 4
    assert len(getattr(found, "trials", None) or found["trials"]) == 4
    assert [said for said in told.ended if said[0] == "the folder"] == [
        ("the folder", "not written", "No space left on device; make room, then go on with --resume")
    ]


def test_a_folder_that_is_gone_is_made_anew_and_gone_on_with(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = running.run_trial
    monkeypatch.setattr(
        running,
        "run_trial",
        lambda *a: (shutil.rmtree(request_.folder) if len(ran) == 2 else None, write(*a))[1],
    )
    compare(request_, Quiet())
    assert len(ran) == 4
    ran.clear()
    compare(request_, Quiet(), stored(request_.folder))
    assert len(ran) == 2, "those whose records are gone"


def test_a_program_may_remove_the_folder_it_was_started_in(
    request_: Request, ran: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, write = Path.cwd(), running.run_trial
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(
        running, "run_trial", lambda *a: (shutil.rmtree(tmp_path / "gone", ignore_errors=True), write(*a))[1]
    )
    found = compare(request_, Quiet())
    monkeypatch.chdir(here)
    assert len(ran) == len(found.trials) == 4
    assert found.program.cwd == stored(request_.folder).cwd == str(tmp_path / "gone")


def test_a_trial_whose_folder_cannot_be_written_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run_trial(Job("x.py", (), False, tmp_path / "file"), Trial("fp32"), lambda *step: None)
    assert (outcome.status, outcome.exit_code) == ("damaged", None)
    assert outcome.reason == "it was not run, as its folder cannot be written (Not a directory)"
