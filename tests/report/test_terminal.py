"""The comparison in a terminal: whole figures at any width, nothing of the program's text obeyed."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from halfstep.report import units
from halfstep.report.terminal import table

from .sample import DROPPED, comparison, damaged, hostile, paths

WIDTHS = [60, 80, 120, 200]
PAYLOADS = [
    "[red]no[/red] [/] [link=file:///x]y[/link]",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J bell\x07 back\x08 null\x00",
    "two\nlines\r\nand\ttabs",
    "right\u202eto left\u2066 zero\u200bwidth \ud800 lone",
    "日本語の長い文字列" * 20,
    "x" * 300,
]


def shown(compared: dict[str, Any], width: int, encoding: str = "utf-8", **options: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=stream, width=width, **options).print(table(compared, page=Path("comparison.html")))
    stream.flush()
    stream.seek(0)
    return stream.read()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_stands_whole_in_a_line(width: int) -> None:
    compared = comparison()
    lines = shown(compared, width).splitlines()
    for row in compared["verdicts"]:
        for key, unit in (
            ("step_time", "s"),
            ("speed_ratio", "×"),
            ("peak_memory", "B"),
            ("memory_ratio", "×"),
        ):
            if row[key]:
                figure = row[key]
                value = figure["value"] if "value" in figure else figure["median"]
                expected = units.pm(value, figure["low"], figure["high"], unit)
                assert any(expected in line for line in lines), expected
        if row["loss"]:
            final = row["loss"]["final"]
            expected = units.pm(final["median"], final["low"], final["high"], "")
            assert any(expected in line for line in lines), expected


@pytest.mark.parametrize("width", WIDTHS)
def test_all_words_are_there_and_no_line_is_too_long(width: int) -> None:
    compared = comparison()
    text = shown(compared, width)
    words = re.sub(r"\s+", " ", text)
    for row in compared["verdicts"]:
        assert row["precision"] in words
        assert row["ran_as"] in words
        assert row["reason"] in words
        assert (row["loss"] or {"words": ""})["words"] in words
    assert compared["recommendation"]["text"] in words
    assert all(reason["text"] in words for reason in compared["recommendation"]["reasons"])
    assert "warning: fp16: asked for fp16: this CPU has no fp16 units" in words
    assert "2 steps" in words
    assert "unsupported" in words
    assert "diverged" in words
    assert "page comparison.html" in words
    assert "next halfstep run --precision bf16 examples/char_gpt.py --steps 60" in words
    assert "…" not in text
    assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [8, 20, 40, *WIDTHS])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_is_shown_not_obeyed(payload: str, width: int) -> None:
    text = shown(hostile(payload), width, force_terminal=True, color_system=None)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066\ud800]", text)
    assert max(map(cell_len, text.splitlines())) <= width


def test_markup_is_text() -> None:
    assert "[red]no[/red]" in shown(hostile("[red]no[/red]"), 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_ascii_terminal_is_given_ascii(width: int) -> None:
    text = shown(comparison(), width, encoding="ascii")
    assert text.isascii()
    assert "+-" in text
    assert max(map(len, text.splitlines())) <= width


def test_no_colour_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in shown(comparison(), 120)
    assert "\x1b[32m" in shown(comparison(), 120, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown(comparison(), 120, force_terminal=True, no_color=True))


def test_what_is_not_significant_is_said_and_dim() -> None:
    compared = comparison()
    compared["verdicts"][3]["speed_ratio"]["significant"] = False
    assert re.search(r"1\.0\d× .*, not significant", shown(compared, 200))
    coloured = shown(compared, 200, force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[2m1\.0\d× [^\x1b]*not significant", coloured)


def test_what_is_absent_has_its_reason() -> None:
    compared = comparison()
    row = compared["verdicts"][2]
    row["peak_memory"] = row["memory_ratio"] = None
    for trial in compared["trials"]:
        if trial["precision"] == "bf16":
            trial |= {"peak_memory_bytes": None, "peak_memory_absent": "the meter stopped"}
    text = shown(compared, 120)
    note = re.search(r"\[(\d)\] the meter stopped", text)
    assert note
    assert f"absent [{note[1]}]" in text


def test_one_trial_has_no_interval_and_says_so() -> None:
    compared = comparison(repeats=1)
    final = compared["verdicts"][0]["loss"]["final"]
    final["low"] = final["high"] = None
    assert "no interval: one trial" in shown(compared, 120)


WAYS = paths(comparison(steps=8))
PARTS = [
    DROPPED,
    None,
    "x",
    -1,
    0,
    math.nan,
    math.inf,
    10**400,
    True,
    [],
    {},
    [None],
    [["a", 1]],
    {"a": None},
]


@settings(max_examples=200, deadline=None)
@given(hits=st.lists(st.tuples(st.sampled_from(WAYS), st.sampled_from(PARTS)), max_size=12))
def test_missing_and_wrong_parts_never_raise(hits: list[tuple[tuple[Any, ...], Any]]) -> None:
    compared = comparison(steps=8)
    for way, part in hits:
        compared = damaged(compared, way, part)
    assert shown(compared, 80)


@pytest.mark.parametrize("command", [["train.loop", "--lr", "1"], ["-m", "train.loop", "--lr", "1"]])
def test_a_module_is_run_as_a_module(command: list[str]) -> None:
    compared = comparison() | {"program": {"command": command, "module": True}}
    assert "next halfstep run --precision bf16 -m train.loop --lr 1\n" in shown(compared, 120)


def test_an_empty_object_says_that_there_is_nothing() -> None:
    assert "No verdicts" in shown({}, 80)


def test_where_a_trial_failed_its_output_is_named() -> None:
    comparison = {"trials": [{"status": "ok", "log": "a.log"}, {"status": "failed", "log": "trials/b.log"}]}
    assert table(comparison, page=Path("/out/report.html")).output == Path("/out/trials/b.log")
    assert table({"trials": [{"status": "ok", "log": "a.log"}]}, page=Path("/o/r")).output is None
