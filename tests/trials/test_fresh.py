"""Trials in copies of the program's folder find nothing of each other's, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from halfstep.errors import UsageError
from halfstep.trials import Job, Trial, fresh
from halfstep.trials.run import run_trial

#: goes on from its own checkpoint, reads beside and above its folder, and says what it sees
PROGRAM = """
import os, sys
seen = open("last.txt").read() if os.path.exists("last.txt") else "nothing"
open("last.txt", "w").write("a checkpoint")
print(seen, open("data/x.txt").read(), open("../above.txt").read(), open("env/pyvenv.cfg").read(), os.listdir("out"))
print([os.path.relpath(word.rpartition("=")[2]) for word in [__file__, *sys.argv[1:]]])
"""


def test_each_trial_begins_from_the_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    for name, text in (("here/data/x.txt", "data"), ("above.txt", "above"), ("here/env/pyvenv.cfg", "env")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (here / "train.py").write_text(PROGRAM)
    (here / "out").mkdir()
    monkeypatch.chdir(here)
    above = str(tmp_path / "above.txt")
    arguments = (f"--out={here / 'out'}", str(here / "new"), "last.txt", above)
    job = Job(str(here / "train.py"), arguments, False, here / "records", fresh=True)
    for repeat in range(2):
        trial = Trial("as-is", repeat=repeat)
        run_trial(job, trial, lambda *step: None)
        seen = job.log(trial).read_text()
        assert "nothing data above env []\n" in seen
        # absolute paths of the command line, and the script itself, are in the copy
        assert "['train.py', 'out', 'new', 'last.txt', '../above.txt']" in seen
    assert sorted(os.listdir(here)) == ["data", "env", "out", "records", "train.py"]
    assert sorted(os.listdir(tmp_path)) == ["above.txt", "here"]


def test_a_folder_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfstep-out").mkdir()
    (tmp_path / "halfstep-out" / "left out").write_text("12345678")
    (tmp_path / "data").write_text("1234567")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fresh, "LARGEST", 7)
    fresh.check_size(tmp_path / "halfstep-out")
    (tmp_path / "data").write_text("12345678")
    with pytest.raises(
        UsageError, match=r"^--fresh copies the folder '.*' for each trial, and it holds 0.0 GiB, more "
    ):
        fresh.check_size(tmp_path / "halfstep-out")
