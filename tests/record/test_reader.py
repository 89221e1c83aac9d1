"""A record of which a part is missing says so; nothing in one is taken on trust."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from halfstep.errors import UsageError
from halfstep.record import LONGEST, SCHEMA, Writer, read
from halfstep.record.events import cleaned, fault
from halfstep.record.reader import KILLED


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """The lines of a whole record with 20 steps."""
    writer = Writer(tmp_path / "whole.jsonl")
    writer.write("start", schema=SCHEMA, precision="fp16", seed=0, repeat=0, command=["train.py"])
    writer.write("takeover", framework="pytorch", ran_as="fp16", fp32_units=[], emulated=False)
    for step in range(20):
        writer.write("step", step=step, loss=2.0 - 0.1 * step, seconds=0.1 if step else None, skipped=False)
        writer.write("logged", name="accuracy", value=0.05 * step, step=step)
    writer.write("end", status="ok", reason="", exit_code=0, steps=20, skipped_steps=0)
    return writer.path.read_text().splitlines(keepends=True)


def damage(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "r.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path).damage


def test_a_whole_record_and_one_cut_short_are_not_damaged(tmp_path: Path, lines: list[str]) -> None:
    whole = "".join(lines)
    assert damage(tmp_path, whole) == ""
    for length in range(len(whole) - 1):
        assert damage(tmp_path, whole[:length]) == "", whole[:length][-80:]


def test_a_missing_step_is_damage_wherever_it_is(tmp_path: Path, lines: list[str]) -> None:
    steps = [index for index, line in enumerate(lines) if '"event":"step"' in line]
    for step, index in enumerate(steps[:-1]):
        assert (
            damage(tmp_path, "".join(lines[:index] + lines[index + 1 :]))
            == f"step {step + 1} is missing from it"
        )
    last = "".join(lines[: steps[-1]] + lines[steps[-1] + 1 :])
    assert damage(tmp_path, last) == "it has 19 steps, and its end says 20"
    hole = "".join(lines[: steps[4]] + lines[steps[11] :])
    assert damage(tmp_path, hole) == "step 5 is missing from it"
    assert damage(tmp_path, "".join(lines[1:])) == "its first line is missing"


def test_half_a_line_that_swallows_the_next_is_damage(tmp_path: Path, lines: list[str]) -> None:
    half = "".join([*lines[:7], lines[7][:20], *lines[8:]])
    assert damage(tmp_path, half) == "line 8 of it is damaged: no event"


def test_half_a_line_of_a_process_that_was_killed_is_none(tmp_path: Path, lines: list[str]) -> None:
    end = json.dumps({"event": "end", "status": "interrupted", "reason": KILLED})
    assert damage(tmp_path, f"{''.join(lines[:7])}{lines[7][:20]}\n{end}\n") == ""
    assert damage(tmp_path, f"{''.join(lines[:6])}{lines[6]}\n{end}\n") == ""
    other = end.replace(KILLED, "Ctrl-C")
    assert damage(tmp_path, f"{''.join(lines[:7])}{lines[7][:20]}\n{other}\n") != ""


@pytest.mark.parametrize("status", ["interrupted", "failed", "out_of_memory"])
def test_a_program_that_is_ended_within_a_step_may_have_counted_it(
    tmp_path: Path, lines: list[str], status: str
) -> None:
    end = json.loads(lines[-1]) | {"status": status, "steps": 21}
    assert damage(tmp_path, "".join(lines[:-1]) + json.dumps(end)) == ""
    end |= {"steps": 22}
    assert damage(tmp_path, "".join(lines[:-1]) + json.dumps(end)) == "it has 20 steps, and its end says 22"


def test_steps_before_a_restart_and_those_of_another_framework_count_by_themselves(
    tmp_path: Path, lines: list[str]
) -> None:
    again = ['{"event":"restart","drops":""}\n', *lines[2:]]
    assert damage(tmp_path, "".join([*lines[:9], *again])) == ""
    assert damage(tmp_path, "".join([*lines[:9], *lines[2:]])) == ""


def test_two_frameworks_may_train_in_turns(tmp_path: Path, lines: list[str]) -> None:
    """Each counts its own steps; one that is missing is missed."""
    of_steps = [
        [json.loads(line) for line in lines[2:] if json.loads(line).get("step") == n][:1] for n in range(20)
    ]
    one = [json.dumps(step[0]) + "\n" for step in of_steps]
    turns = [*lines[:2], *one[:5], *one[:3], *one[5:11], *one[3:7], *one[11:], lines[-1]]
    assert damage(tmp_path, "".join(turns)) == ""
    assert damage(tmp_path, "".join([*turns[:12], *turns[13:]])) != ""


def test_a_look_that_failed_may_leave_steps_out(tmp_path: Path, lines: list[str]) -> None:
    absent = '{"event":"absent","look":"steps","reason":"TypeError"}\n'
    assert damage(tmp_path, "".join([*lines[:9], absent, lines[-1]])) == ""


DAMAGED: list[tuple[str, Any]] = [
    ("step", -1), ("step", 1.5), ("step", "1"), ("step", True), ("loss", []), ("loss", "1"), ("loss", 10**400),
    ("loss", float("nan")), ("seconds", -1.0), ("seconds", float("inf")), ("seconds", {}), ("skipped", 1),
    ("loss_scale", "nan"), ("loss_scale", None), ("event", None), ("event", ["step"]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), DAMAGED, ids=repr)
def test_a_step_with_another_kind_of_field_is_damage(
    tmp_path: Path, lines: list[str], field: str, value: Any
) -> None:
    line = json.dumps(json.loads(lines[6]) | {field: value}) + "\n"
    assert damage(tmp_path, "".join([*lines[:6], line, *lines[7:]])).startswith("line 7 of it is damaged: ")


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe{}\n", b"[" * 100_000 + b"\n", b'{"event":"step","step":' + b"1" * 5000 + b"}\n", b"[]\n", b"7\n",
        b'{"event":"x","of":' + b"[" * 600 + b"]" * 600 + b"}\n",
        b'{"event":"logged","name":"a"}\n', b"\x00" * 300 + b"\n", b'"' + b"x" * 2**23 + b'"\n',
    ],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_a_line_that_is_no_event_is_damage(tmp_path: Path, lines: list[str], line: bytes) -> None:
    text = "".join(lines[:6]).encode() + line + "".join(lines[6:]).encode()
    assert damage(tmp_path, text).startswith("line 7 of it is damaged: ")


def test_texts_are_safe_to_show_and_short(tmp_path: Path, lines: list[str]) -> None:
    start = json.loads(lines[0]) | {"python": "\x1b[31mred\x1b]0;title\x07\u202e", "started": "x" * 10**6}
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([json.dumps(start), *lines[1:]]))
    record = read(path)
    assert record.start["python"] == "red"
    assert record.start["started"] == "x" * LONGEST


def test_no_byte_that_changes_ends_in_anything_but_a_record(tmp_path: Path, lines: list[str]) -> None:
    whole = "".join(lines).encode()
    chance = random.Random(0)
    for _ in range(500):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        with contextlib.suppress(UsageError):  # the schema is another
            damage(tmp_path, bytes(changed))


@pytest.mark.parametrize(
    ("loss", "fits"),
    [(-3, True), (2**63, False), (-(2**63), False), (-(2**63) - 1, False), (2**63 - 1, True), (True, False)],
)
def test_a_figure_may_be_negative_and_no_larger_than_counts_are(loss: object, fits: bool) -> None:
    assert (fault({"event": "step", "step": 0, "loss": loss}) == "") is fits


def test_an_event_may_leave_out_what_it_does_not_know() -> None:
    assert [fault({"event": "stored", name: {}}) for name in ("weights", "absent")] == ["", ""]
    assert fault({"event": "logged", "name": "accuracy"}) == "logged without value"


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("end", "status", "fine"),
        ("end", "files_read", [{"path": 3, "modified": 1.0, "rewritten": True}]),
        ("end", "files_read", [{"path": "a.pt", "modified": "x", "rewritten": True}]),
        ("end", "files_read", [{"path": "a.pt"}]),
        ("end", "raised_at", {"place": 3}),
        ("end", "raised_at", {"modules": None}),
        ("end", "load", {"cores": -1}),
        ("takeover", "passes", "two"),  # the lines to adopt are made of these three
        ("takeover", "clipping", 1),
        ("takeover", "loop", "yes"),
        ("sample", "profiled", {"median_operation_seconds": "x"}),
        ("sample", "matmul_flops", {"fp32": "x"}),
    ],
)
def test_a_field_of_another_kind_is_damage(
    event: str, field: str, value: object, tmp_path: Path, lines: list[str]
) -> None:
    line = json.dumps({"event": event, "at": 1.0, field: value}) + "\n"
    number = len(lines)
    assert damage(tmp_path, "".join([*lines[:-1], line, lines[-1]])) == (
        f"line {number} of it is damaged: {event} with another kind of {field}"
    )


@pytest.mark.parametrize(
    "text",
    [
        *(chr(n) for n in (0, 7, 9, 10, 13, 27, 31, 32, 34, 47, 92, 126, 127, 128, 155, 0xAD, 0x202E, 0x2028, 0xD800)),
        *("\x1b[2J", "[31m", "~ plain", "é", "x" * 1900, "x" * 2001, "\U000e0001"),
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("escaped", [True, False])
def test_every_text_is_cleaned_however_it_is_written(text: str, escaped: bool, tmp_path: Path) -> None:
    event = {"event": "start", "schema": SCHEMA, "precision": f"a{text}b", text: [{"deep": text}]}
    line = json.dumps(event, ensure_ascii=escaped) + "\n"
    (tmp_path / "r.jsonl").write_bytes(line.encode("utf-8", "surrogatepass"))
    record = read(tmp_path / "r.jsonl")
    if record.damage:  # half a surrogate pair is no UTF-8
        assert not escaped
        return
    assert record.start == cleaned(event)
