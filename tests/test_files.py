from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from halfstep.errors import UsageError
from halfstep.files import json_text, parsed, read_json, write_whole
from halfstep.record import read
from halfstep.trials import records_at


def test_numbers_that_json_lacks_are_null() -> None:
    value = {"a": [math.nan, (1.5, math.inf)], 3: -math.inf, "b": "nan", "c": None}
    assert json.loads(json_text(value)) == {"a": [None, [1.5, None]], "3": None, "b": "nan", "c": None}
    assert json_text({"a": [1, 2.5]}, indent=1) == json.dumps({"a": [1, 2.5]}, indent=1)


def test_a_file_is_replaced_and_a_link_is_not_followed(tmp_path: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "report.html"
    other.write_text("untouched")
    file.symlink_to(other)
    write_whole(file, "page \udc80\n")
    assert (other.read_text(), file.read_text()) == ("untouched", "page \\udc80\n")
    assert not file.is_symlink()
    assert sorted(tmp_path.iterdir()) == [other, file]


def test_its_mode_is_what_the_user_asks_for_every_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_would_never_end_is_not_read(tmp_path: Path, kind: str) -> None:
    """Somebody else's folder may hold a pipe or a link to a device in a record's place."""
    path = tmp_path / "r.jsonl"
    make = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir}
    make[kind](path)
    with pytest.raises(OSError, match="Is a directory" if kind == "folder" else "Not a file"):
        read_json(path)
    with pytest.raises(UsageError, match="Cannot read the record"):
        read(path)
    assert "Cannot read the record" in records_at(path)[0].damage


def test_only_what_is_nested_too_deeply_is_refused() -> None:
    """Many arrays beside each other are not deep, nor are brackets in a text."""
    for value in (
        [[1]] * 100,
        {"a": "[" * 100, '"': '\\"' + "[{" * 60, "b": "]" * 100},
        json.loads("[" * 50 + "]" * 50),
    ):
        assert parsed(json.dumps(value)) == value
    for text in (
        "[" * 51 + "]" * 51,
        "[" * 100_000,
        '["]]]]]]", ' * 60 + "1" + "]" * 60,
        '{"\\"":' * 51 + "1" + "}" * 51,
    ):
        with pytest.raises(ValueError, match="nested too deeply"):
            parsed(text)
