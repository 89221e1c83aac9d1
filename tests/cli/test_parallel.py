"""``--parallel``: blocks side by side, ended by Ctrl-C, by a kill and by a time limit, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import halfstep as package
from halfstep.processes import allowed_cores
from halfstep.record import read

from .running import PROGRAMS, halfstep, kill_in_training, runs

FAULTY = str(PROGRAMS / "faulty.py")
OPTIONS = ("--precisions", "fp32", "--seeds", "2", "--parallel", "2", "--out", "o", FAULTY, "hang")

pytestmark = [
    pytest.mark.skipif(len(allowed_cores()) < 2, reason="needs two cores to share"),
    pytest.mark.long,
]


def test_ctrl_c_a_kill_and_a_time_limit_end_all_blocks(tmp_path: Path) -> None:
    records = [tmp_path / "o" / "trials" / f"fp32-seed{seed}-repeat0.jsonl" for seed in (0, 1)]

    def in_step_7(of: Path) -> bool:
        return of.exists() and len(read(of).steps) == 7

    def wait() -> None:
        end = time.monotonic() + 100
        while not all(map(in_step_7, records)):
            assert time.monotonic() < end
            time.sleep(0.05)

    command = [sys.executable, "-m", "halfstep", "compare", *OPTIONS]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as child:
        wait()  # both train at the same time, for each hangs in its step 7
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(timeout=60) == 1
    found = package.load(tmp_path / "o")
    assert [(t["status"], t["reason"]) for t in found.trials] == [
        ("interrupted", "interrupted by Ctrl-C after 7 steps")
    ] * 2
    assert not any(runs(read(record).start["pid"]) for record in records)

    for record in records:
        record.unlink()
    kill_in_training(records[0], 7, "--resume", "o", cwd=tmp_path, meanwhile=wait)
    other = read(records[1]).start["pid"]
    end = time.monotonic() + 30
    while runs(other) or "was killed" not in records[1].read_text():
        assert time.monotonic() < end, f"process {other} runs on"
        time.sleep(0.05)

    done = halfstep("compare", "--resume", "o", "--time-limit", "15", cwd=tmp_path)
    found = package.load(tmp_path / "o")
    assert [t["status"] for t in found.trials] == ["timed_out"] * 2, done.stderr
    loads = [
        t["load"]["cores"] for t in found.trials if t["load"]
    ]  # none where it did not come to its third step
    assert set(loads) <= {len(allowed_cores()) // 2}
    assert "2 trials ran side by side, each on " in done.stdout.replace("\n    ", " ")
