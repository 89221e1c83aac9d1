from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from halfstep.errors import UsageError
from halfstep.record import SCHEMA, Writer, plain, read


def written(path: Path) -> Path:
    writer = Writer(path)
    writer.write("start", schema=SCHEMA, precision="fp16")
    writer.write("step", step=0, loss=2.5, seconds=None, skipped=False)
    writer.write("step", step=1, loss=float("nan"), seconds=0.25, skipped=True)
    writer.write("nonfinite", step=1, what="loss")
    writer.write("nonfinite", step=9, what="loss")
    writer.write("logged", name="accuracy", value=0.5, step=1)
    writer.write("end", status="ok")
    return path


def test_round_trip(tmp_path: Path) -> None:
    record = read(written(tmp_path / "r.jsonl"))
    assert record.start["precision"] == "fp16"
    assert record.losses[0] == 2.5
    assert math.isnan(record.losses[1] or 0)
    assert record.step_seconds == [0.25]
    assert record.nonfinite["step"] == 1
    assert record.logged == {"accuracy": [(1, 0.5)]}
    assert record.end["status"] == "ok"


def test_a_record_cut_off_anywhere_is_readable(tmp_path: Path) -> None:
    whole = written(tmp_path / "r.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    steps = []
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        steps.append(len(read(cut).steps))
    assert steps == sorted(steps)
    assert steps[-1] == 2


def test_every_line_is_on_disk_when_it_is_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    for index in range(3):
        writer.write("step", step=index)
        assert len(read(writer.path).steps) == index + 1


def test_a_forked_child_does_not_write(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    child = os.fork()
    if child == 0:
        writer.write("step", step=0)
        os._exit(0)
    os.waitpid(child, 0)
    assert read(writer.path).steps == []


def test_mistakes_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read the record .*; give a record file\."):
        read(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(
        UsageError, match=r"Cannot write the record .*; give a file in a folder you may write\."
    ):
        Writer(tmp_path / "file" / "r.jsonl")
    (tmp_path / "other").write_text('{"event":"start","schema":"halfstep/record/99"}\n')
    with pytest.raises(UsageError, match="has schema 'halfstep/record/99'; this version of halfstep reads"):
        read(tmp_path / "other")


NUMBERS = [
    0,
    -1,
    10**40,
    True,
    False,
    None,
    0.0,
    -0.0,
    0.1,
    1e-320,
    1.7e308,
    1e22,
    math.nan,
    math.inf,
    -math.inf,
]


@pytest.mark.parametrize(
    "value", [*NUMBERS, 'a "word"\n', "\u00e9\ud83d\ude00", [1, "b"], {"fp16": 0.5}], ids=repr
)
def test_a_value_is_written_as_by_pythons_own_encoder(tmp_path: Path, value: object) -> None:
    writer = Writer(tmp_path / "r.jsonl")
    writer.write("logged", value=value)
    line = json.loads(writer.path.read_text())
    assert list(line) == ["event", "at", "value"]
    assert 0 <= line["at"] < 60
    written = writer.path.read_text().partition(',"value":')[2]
    assert written == json.dumps(plain(value), separators=(",", ":")) + "}\n"
