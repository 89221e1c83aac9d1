"""What a script and a full disk can do to a record while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from halfstep.record import LONGEST, Writer, read


def test_a_script_that_closes_every_descriptor_gets_no_line_into_its_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    writer.write("start", precision="fp32")
    writer.write("step", step=0)
    os.close(writer._descriptor)
    with open(tmp_path / "mine", "wb", buffering=0) as mine:
        os.dup2(mine.fileno(), writer._descriptor)
        writer.write("step", step=1)
        assert (tmp_path / "mine").read_bytes() == b""
    assert len(read(writer.path).steps) == 2


def test_closing_the_lowest_descriptors_does_not_reach_the_record(tmp_path: Path) -> None:
    script = "import os, sys; from halfstep.record import Writer\n"
    script += "w = Writer('r.jsonl'); os.closerange(3, 256); f = open('mine', 'w'); w.write('step', step=0)\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert (tmp_path / "mine").read_text() == ""
    assert len(read(tmp_path / "r.jsonl").steps) == 1


def test_a_record_that_was_replaced_is_not_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    os.close(writer._descriptor)
    writer.path.rename(tmp_path / "moved")
    writer.path.write_text("somebody else's")
    writer.write("step", step=0)
    assert writer.path.read_text() == "somebody else's"


SCRIPT = """
import resource, sys
from halfstep.record import Writer
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
writer = Writer("r.jsonl")
writer.write("start", precision="fp32")
for step in range(60):
    if step == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    if step == int(sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer.write("step", step=step, loss=1.0, seconds=0.1, skipped=False)
writer.write("end", status="ok", reason="", exit_code=0, steps=60)
"""


def full(folder: Path, room_again_at: int) -> Path:
    """The record of a program whose disk is full from step 20 on, until there is room again."""
    subprocess.run([sys.executable, "-c", SCRIPT, str(room_again_at)], cwd=folder, check=True)
    return folder / "r.jsonl"


def test_a_disk_that_was_full_for_a_while_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    record = read(full(tmp_path, 40))
    lost = 60 - len(record.steps)
    assert 15 < lost <= 20
    assert record.damage == f"{lost} lines of it could not be written (File too large)"
    assert record.end["steps"] == 60


def test_a_disk_that_stays_full_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    record = read(full(tmp_path, 1000))
    assert record.end["status"] == "ok"
    assert record.damage.endswith(" lines of it could not be written (File too large)")
    assert record.steps == []


def test_a_text_of_megabytes_is_cut(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    writer.write(
        "end", status="failed", reason="é" * 2**21, raised_at={"code": "x" * 2**21, "modules": ["y" * 9999]}
    )
    assert writer.path.stat().st_size < 30_000
    end = read(writer.path).end
    assert end["reason"] == "é" * (LONGEST - 1) + "…"
    assert len(end["raised_at"]["code"]) == LONGEST
