"""A large comparison: what costs its time is done once, and its page stays small; the times are the benchmark's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfstep import codec
from halfstep.comparison import archive
from halfstep.comparison.request import save
from halfstep.comparison.running import assemble, plan
from halfstep.record import Record
from halfstep.report.compared import File
from halfstep.trials import outcome as outcomes_

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import load  # noqa: E402


def test_each_record_is_read_once_and_each_trial_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = load.request_in(tmp_path, 10)
    for trial in plan(load.PRECISIONS, load.REPEATS, request.seeds):
        load.trial_in(request, trial, 40, 1)
    save(request, load.ENVIRONMENT)
    next(tmp_path.glob("trials/bf16-seed0-repeat1.end.json")).unlink()
    opened: list[Path] = []
    really: Callable[[Path], Record] = outcomes_.read
    monkeypatch.setattr(outcomes_, "read", lambda path: opened.append(path) or really(path))
    found = archive.outcomes(request)
    assert sorted(opened) == sorted(tmp_path.glob("trials/*.jsonl"))
    assert len(opened) == len(found) == 10

    file, written = File(tmp_path), codec.write
    first = assemble(request, found, load.ENVIRONMENT)
    file.write(first)

    def no_figures(record: Record) -> Any:
        raise AssertionError(f"{record.path} is looked at again")

    def no_trial(value: Any) -> Any:
        assert not hasattr(value, "losses"), "a trial is written anew"
        return written(value)

    for name in ("losses", "step_seconds"):
        monkeypatch.setattr(Record, name, property(no_figures))
    monkeypatch.setattr(codec, "write", no_trial)
    again = assemble(request, found, load.ENVIRONMENT)
    file.write(again)
    monkeypatch.undo()
    assert again == first
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(
        json.dumps(codec.write(first))
    )
    # A trial that is run again is another one.
    changed = load.trial_in(request, found[3].trial, 41, 1)
    file.write(assemble(request, [*found[:3], changed, *found[4:]], load.ENVIRONMENT))
    steps = [trial["steps"] for trial in json.loads((tmp_path / "comparison.json").read_text())["trials"]]
    assert steps == [40] * 3 + [41] + [40] * 6
    # The same folder for the benchmark itself: its figures are there.
    assert len(load.assembling(request, found)) == 10
