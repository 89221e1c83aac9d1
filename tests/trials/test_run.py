"""Signals that come while a trial is being started or ended: it is gone afterwards, and the signal is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from halfstep.record import SCHEMA, Writer
from halfstep.trials import Job, Trial, process, run

from .test_process import running


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """One whose program hangs, deaf to what asks it to end."""
    deaf = "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    monkeypatch.setattr(Job, "command", lambda self, trial, copy=None: [sys.executable, "-S", "-c", deaf])
    monkeypatch.setattr(process, "GRACE", 0.3)
    return Job("p.py", (), False, tmp_path)


@pytest.fixture
def children() -> Callable[[], list[int]]:
    """The running children of this process that the test has made: a test before may have left one."""

    def all_of_them() -> list[int]:
        return running([child.pid for child in psutil.Process().children(recursive=True)])

    before = all_of_them()
    return lambda: [pid for pid in all_of_them() if pid not in before]


def after(function: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    def done(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        then()
        return found

    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["begin", "start", "tell"])
def test_a_signal_between_a_trials_start_and_its_guard_ends_the_trial(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    children: Callable[[], list[int]],
    moment: str,
    number: signal.Signals,
) -> None:
    owner = run if moment == "start" else process.Guard
    monkeypatch.setattr(owner, moment, after(getattr(owner, moment), lambda: os.kill(os.getpid(), number)))
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    outcome = run.run_trial(job, Trial("fp32"), lambda *step: None)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (outcome.status, outcome.reason) == ("interrupted", f"interrupted by {name} after 0 steps")
    assert outcome.exit_code is not None
    assert outcome.exit_code != 0  # 1 where Python was told as it started
    assert children() == []
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_second_ctrl_c_ends_what_does_not_listen_at_once(
    job: Job, monkeypatch: pytest.MonkeyPatch, children: Callable[[], list[int]]
) -> None:
    monkeypatch.setattr(process, "GRACE", 60)
    told: list[float] = []

    def ask(processes: list[psutil.Process], leader: int | None, number: signal.Signals) -> None:
        really(processes, leader, number)
        if number == signal.SIGINT:
            told.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    def begun() -> None:
        while not job.log(Trial("fp32")).read_bytes():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    really = process.ask_to_end
    monkeypatch.setattr(process, "ask_to_end", ask)
    monkeypatch.setattr(run, "start", after(run.start, begun))
    outcome = run.run_trial(job, Trial("fp32"), lambda *step: None)
    assert outcome.status == "interrupted"
    assert time.monotonic() - told[0] < 20
    assert children() == []


def test_a_signal_that_comes_as_the_trial_has_ended_is_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "command", lambda self, trial, copy=None: [sys.executable, "-S", "-c", ""])
    close = after(process.Guard.close, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(process.Guard, "close", close)
    outcome = run.run_trial(job, Trial("fp32"), lambda *step: None)
    assert (outcome.status, outcome.reason) == ("interrupted", "interrupted by SIGTERM after 0 steps")


def test_an_earlier_record_is_not_taken_for_this_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that refuses what stands there would leave it."""
    monkeypatch.setattr(Job, "command", lambda self, trial, copy=None: [sys.executable, "-S", "-c", ""])
    job, trial = Job("p.py", (), False, tmp_path), Trial("fp32")
    job.record(trial).parent.mkdir()
    for path in (job.record(trial), job.record(trial).with_suffix(".jsonl.rank1")):
        path.write_text('{"broken\n')
    outcome = run.run_trial(job, trial, lambda *step: None)
    assert (outcome.status, outcome.reason) == ("failed", "ended without an optimizer step")
    assert job.records(trial) == [job.record(trial)]


def test_what_cannot_be_started_is_a_row(
    job: Job, monkeypatch: pytest.MonkeyPatch, children: Callable[[], list[int]]
) -> None:
    monkeypatch.setattr(Job, "command", lambda self, trial, copy=None: [str(job.folder / "none")])
    outcome = run.run_trial(job, Trial("fp32"), lambda *step: None)
    assert (outcome.status, outcome.reason) == (
        "failed",
        "it could not be started (No such file or directory)",
    )
    assert children() == []


def test_a_trial_ends_whose_halfstep_is_killed_as_it_starts(tmp_path: Path) -> None:
    """Killed in the very call that starts the trial: the guard is there already, and does not know its number."""
    record = tmp_path / "r.jsonl"
    script = f"""
import os, signal, sys
from pathlib import Path
from halfstep.trials.process import Guard, start
guard = Guard("a-mark-of-its-own", Path({str(record)!r}))
guard.begin()
child, _ = start([sys.executable, "-S", "-c", "import time; time.sleep(600)"], dict(os.environ), sys.stderr, "a-mark-of-its-own")
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    writer = Writer(record)
    writer.write("start", schema=SCHEMA, precision="fp32")
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    ended_by = time.monotonic() + 30
    while running([int(killed.stdout)]) or "was killed" not in record.read_text():
        assert time.monotonic() < ended_by
        time.sleep(0.05)
