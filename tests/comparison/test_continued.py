"""Trials that went on from an earlier trial's files, from records whose files and times are known, and as seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from halfstep.comparison.continued import files_of_earlier_trials
from halfstep.comparison.model.trials import Disturbed
from halfstep.comparison.rows import trial_row
from halfstep.record import Record

from .simulated import outcome
from .told import recommend, told_rows


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def read(path: str, modified: float, rewritten: bool) -> dict[str, Any]:
    return {"path": f"/train/{path}", "modified": modified, "rewritten": rewritten}


def trial(begun: float, steps: int, *files: dict[str, Any]) -> Record:
    record = Record(Path("r"), start={"started": at(begun)}, end={"files_read": list(files)})
    for step in range(steps):
        record.add({"event": "step", "step": step, "loss": 1.0})
    return record


@pytest.mark.parametrize(
    ("second", "files"),
    [
        (trial(200, 30, read("last.pt", 150, True)), ["last.pt"]),  # written between, and written anew
        (trial(200, 40, read("last.pt", 150, True)), ["last.pt"]),
        (
            trial(200, 30, read("last.pt", 150, False)),
            ["last.pt"],
        ),  # fewer steps, though it saved nothing more
        (trial(200, 40, read("data.npy", 150, False)), []),  # a copy of the data, made once
        (trial(200, 30, read("start.pt", 50, True)), []),  # older than the comparison
        (trial(200, 30), []),  # it stopped early by itself
    ],
)
def test_a_file_of_an_earlier_trial_that_is_written_anew(second: Record, files: list[str]) -> None:
    assert files_of_earlier_trials([trial(100, 40), second]) == [[], files]


def test_a_file_that_a_copy_of_the_folder_does_not_hold_has_a_cure_of_its_own() -> None:
    second = trial(200, 30, read("last.pt", 150, True))
    (_, files) = files_of_earlier_trials([trial(100, 40), second], fresh=True)
    assert files == ["/train/last.pt"]
    falling = [2 - 0.04 * step for step in range(40)]
    trials = [outcome("fp32", falling), outcome("bf16", falling[:30])]
    rows = [trial_row(each, (), "") for each in trials]
    rows[1] = replace(rows[1], disturbed=Disturbed(files=tuple(files)))
    assert recommend(told_rows(trials, rows))["text"] == (
        "No verdict: bf16 went on from /train/last.pt, which an earlier trial wrote, and made 30 of 40 steps; it names "
        "that file by an absolute path, which leads out of the copy that --fresh makes; name it relative to the working "
        "folder, or give each trial its own folder, named after HALFSTEP_TRIAL in its environment."
    )


def test_there_is_no_verdict_on_a_trial_that_went_on() -> None:
    falling = [2 - 0.04 * step for step in range(40)]
    trials = [outcome("fp32", falling), outcome("bf16", [loss - 0.4 for loss in falling[:30]])]
    rows = [trial_row(each, (), "") for each in trials]
    rows[1] = replace(rows[1], disturbed=Disturbed(files=("last.pt",)))
    found = told_rows(trials, rows)
    advice = recommend(found)
    said = "went on from last.pt, which an earlier trial wrote, and made 30 of 40 steps"
    assert (advice["rule"], advice["precision"], advice["decided"]) == ("continued", None, False)
    assert advice["text"].startswith(f"No verdict: bf16 {said}; compare with --fresh, or give each trial")
    assert found[1]["quality"] == {"kind": "not_known", "words": f"{said}: nothing to compare", "seeds": 1}


PROGRAM = """
import sys
from halfstep.program.files_read import FilesRead
seen = FilesRead()
open("last.pt").read(); open("README.md").read(); open("data").read(); open("old").read(); open("made", "w").close(); open("made").read()
open("last.pt", "w").close()
open(sys.executable, "rb").close()
print([(file["path"].rpartition("/")[2], file["rewritten"]) for file in seen.files()])
"""


def test_files_that_a_program_reads_are_seen(tmp_path: Path) -> None:
    """Those that somebody else wrote within a day; not its own, not old ones, no model cards."""
    for name in ("last.pt", "data", "old", "README.md"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - 60,) * 2)
    os.utime(tmp_path / "old", (0, 0))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[('last.pt', True), ('data', False)]"
