"""No process of a trial outlives it: in sessions of their own, orphaned, deaf to SIGTERM, or spinning in C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from halfstep.record import SCHEMA, Writer, read
from halfstep.record.reader import KILLED
from halfstep.trials.process import Guard, Tree, new_mark, start

#: starts one helper of each kind, which all ignore SIGTERM, and then does what it is told
PROGRAM = """
import os, signal, subprocess, sys, time
helper = '''
import os, signal, sys, time
kind = sys.argv[1]
if kind in ("orphan", "stranger") and os.fork():
    os._exit(0)
if kind in ("orphan", "session"):
    os.setsid()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
with open(kind + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(kind + ".new", kind + ".pid")
if kind == "spin":
    import re  # in C, where no handler of a signal runs
    re.match("(a*)*b", "a" * 60)
time.sleep(600)
'''
kinds = ("child", "session", "orphan", "spin", "stranger")
for kind in kinds:  # the stranger's environment tells nothing
    subprocess.Popen([sys.executable, "-S", "-c", helper, kind], env={} if kind == "stranger" else None)
while not all(os.path.exists(kind + ".pid") for kind in kinds):
    time.sleep(0.01)
open("ready", "w").close()
time.sleep(0 if sys.argv[1] == "end" else 600)
"""


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halfstep.trials.process.GRACE", 0.5)
    monkeypatch.setattr("halfstep.trials.process._LEFT", 0.2)


@contextlib.contextmanager
def started(folder: Path, what: str) -> Iterator[tuple[subprocess.Popen[bytes], Tree]]:
    """The program with all its helpers running; they are gone afterwards, whatever the test finds."""
    with open(folder / "log", "wb") as log, contextlib.chdir(folder):
        child, tree = start([sys.executable, "-S", "-c", PROGRAM, what], dict(os.environ), log, new_mark())
    try:
        while not (folder / "ready").exists():
            time.sleep(0.01)
            assert child.poll() in (None, 0), (folder / "log").read_text()
        yield child, tree
    finally:
        for pid in helpers(folder):
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        child.kill()
        child.wait()


def helpers(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*.pid")]


def running(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [pid] if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else []
    return found


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_are_gone_when_a_trial_is_ended(tmp_path: Path, short_grace: None, first: signal.Signals) -> None:
    with started(tmp_path, "hang") as (child, tree):
        assert len(running(helpers(tmp_path))) == 5
        tree.kill() if first == signal.SIGKILL else tree.end(first)
        assert running([child.pid, *helpers(tmp_path)]) == []
        assert child.returncode == -first


def test_all_are_gone_when_a_trial_has_ended_by_itself(tmp_path: Path, short_grace: None) -> None:
    with started(tmp_path, "end") as (child, tree):
        assert child.wait() == 0
        tree.end()
        assert running(helpers(tmp_path)) == []


def test_the_guard_ends_them_when_whoever_ran_the_trial_is_killed(tmp_path: Path) -> None:
    """The guard's pipe is closed without a word, as the system does when a process is killed."""
    writer = Writer(tmp_path / "r.jsonl")
    writer.write("start", schema=SCHEMA, precision="fp32")
    writer.write("step", step=0)
    with started(tmp_path, "hang") as (child, tree):
        guard = Guard(tree.mark, writer.path)
        guard.begin()
        guard.tell(child.pid)
        process = guard._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert running([child.pid, *helpers(tmp_path)]) == []
    record = read(writer.path)
    assert (record.damage, len(record.steps), record.end["reason"]) == ("", 1, KILLED)


def test_the_guard_does_nothing_when_the_trial_has_ended(tmp_path: Path) -> None:
    record = tmp_path / "r.jsonl"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        guard = Guard("none", record)
        guard.begin()
        guard.tell(bystander.pid)
        guard.close()
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert record.read_text() == ""


@pytest.mark.parametrize("left", [False, True])
def test_memory_is_that_of_all_of_them(
    tmp_path: Path, short_grace: None, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """Of one whose parent has ended, too, which is then no more found by its parents."""
    monkeypatch.setattr("halfstep.trials.process._LOOK", 0)
    holding = f"import os, time; {left} and os.fork() and os._exit(0); b = bytearray(2**26); open('holds', 'w'); time.sleep(600)"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-S', '-c', {holding!r}]); time.sleep(600)"
    with open(tmp_path / "log", "wb") as log:
        _, tree = start([sys.executable, "-S", "-c", script], dict(os.environ), log, new_mark(), tmp_path)
    try:
        while not (tmp_path / "holds").exists():
            time.sleep(0.01)
        tree.look()
        assert 2**26 < tree.resident() < 2**28
    finally:
        tree.kill()
    assert tree.running() == []


def test_what_was_seen_is_known_when_nothing_tells_it_any_more(
    tmp_path: Path, short_grace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of its own, an environment of its own, and no parent."""
    monkeypatch.setattr("halfstep.trials.process._LOOK", 0)
    daemon = "import os, time; os.setsid(); open('daemon.pid', 'w').write(str(os.getpid())); time.sleep(600)"
    script = f"""import os, subprocess, sys, time
subprocess.Popen([sys.executable, '-S', '-c', {daemon!r}], env={{}})
while not os.path.exists('end'):
    time.sleep(0.01)"""
    with open(tmp_path / "log", "wb") as log:
        child, tree = start([sys.executable, "-S", "-c", script], dict(os.environ), log, new_mark(), tmp_path)
    while not helpers(tmp_path):
        time.sleep(0.01)
    tree.look()
    (tmp_path / "end").touch()
    assert child.wait(60) == 0
    assert len(running(helpers(tmp_path))) == 1
    tree.end()
    assert running(helpers(tmp_path)) == []
