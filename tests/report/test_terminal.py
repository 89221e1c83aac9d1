"""The comparison in a terminal: whole figures at any width, nothing of the program's text obeyed."""

from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from halfstep import codec
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.report import notebook, page, units
from halfstep.report.layout import Sheet
from halfstep.report.reading import no_interval
from halfstep.report.terminal import table

from .sample import DROPPED, comparison, damaged, hostile, metered, paths, untested

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
    Console(file=stream, width=width, **options).print(
        table(compared, page=Path("comparison.html")), crop=False
    )
    stream.flush()
    stream.seek(0)
    return stream.read()


def to_read(text: str) -> list[str]:
    """The lines but for those that are to be copied, which are never broken."""
    return [line for line in text.splitlines() if not line.startswith(("output ", "page ", "next "))]


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
                assert stands(lines, value, figure["low"], figure["high"], unit)
        if row["loss"]:
            final = row["loss"]["final"]
            assert stands(lines, final["median"], final["low"], final["high"], "")


def stands(lines: list[str], value: float, low: float, high: float, unit: str) -> bool:
    """A figure in one piece, or in a column: the value, and its interval in the line below at the same place."""
    whole, number, interval = (
        units.pm(value, low, high, unit),
        units.quantity(value, unit),
        units.span(value, low, high, unit),
    )
    return any(whole in line for line in lines) or any(
        below[at.start() :].startswith(interval)
        for line, below in itertools.pairwise(lines)
        for at in re.finditer(re.escape(number), line)
    )


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
    assert max(map(cell_len, to_read(text))) <= width


@pytest.mark.parametrize("width", WIDTHS[:3])
def test_a_long_name_and_long_reasons_leave_the_figures_their_columns(width: int) -> None:
    """A name stands in a line of its own, reasons flow over the whole width: no column becomes wider or narrower."""
    compared, plain = comparison(), comparison()
    name, reason = "bf16:keep=encoder.layers.*.norm,lm_head.decoder", " ".join(["a long reason"] * 1000)
    for row in compared["verdicts"]:
        row["precision"] = name if row["precision"] == "bf16" else row["precision"]
        row["reason"] = row["reason"] and reason
        if row["step_time"] is None:
            row["step_time_absent"] = f"another: {reason}"
    text = shown(compared, width)
    head = text.splitlines()[0]
    assert head.split("status")[0].split() == shown(plain, width).splitlines()[0].split("status")[0].split()
    assert name in text.splitlines()
    below = text.splitlines()[text.splitlines().index(name) + 1]
    assert below.startswith(" " * head.index("step time") + "102 ms")
    told = [line for line in text.splitlines() if "a long reason a long" in line]
    assert len(told[0]) > 0.8 * width
    assert len(told) <= 3 * 400 / (0.8 * width), "what is long is shortened: the page has it all"
    assert "…" in text
    assert max(map(cell_len, to_read(text))) <= width


@pytest.mark.parametrize("width", [8, 20, 40, *WIDTHS])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_is_shown_not_obeyed(payload: str, width: int) -> None:
    text = shown(hostile(payload), width, force_terminal=True, color_system=None)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066\ud800]", text)
    assert max(map(cell_len, to_read(text))) <= width


def test_markup_is_text() -> None:
    assert "[red]no[/red]" in shown(hostile("[red]no[/red]"), 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_ascii_terminal_is_given_ascii(width: int) -> None:
    text = shown(comparison(), width, encoding="ascii")
    assert text.isascii()
    assert "+-" in text or "1.88x" in text
    assert max(map(len, to_read(text))) <= width


def test_no_colour_and_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in shown(comparison(), 120)
    assert "\x1b[32m" in shown(comparison(), 120, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown(comparison(), 120, force_terminal=True, no_color=True))


def test_what_is_not_significant_is_said_and_dim() -> None:
    compared = comparison()
    compared["verdicts"][3]["speed_ratio"]["significant"] = False
    lines = shown(compared, 200).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fp16 "))
    place = lines[at].index("1.02×")
    assert lines[at + 2][place:].startswith("not significant")
    coloured = shown(compared, 200, force_terminal=True, color_system="standard")
    assert "\x1b[2m1.02×\x1b[0m" in coloured
    assert "\x1b[2mnot significant\x1b[0m" in coloured
    ratio = compared["verdicts"][3]["memory_ratio"]
    ratio["significant"] = False
    flat = units.pm(ratio["value"], ratio["low"], ratio["high"], "×")
    assert f"memory ratio {flat}, not significant" in shown(compared, 60)


def test_a_run_too_short_to_be_timed_says_so() -> None:
    compared = comparison()
    for row in compared["verdicts"]:
        row |= {"step_time": None, "speed_ratio": None, "step_time_absent": "no step after the warm-up"}
    text = shown(compared, 200)
    assert "] no step after the warm-up" in text
    assert "not recorded" not in text


def test_what_has_no_interval_is_not_called_insignificant() -> None:
    compared = untested(comparison())
    text = shown(compared, 200)
    assert "1.02× [" in text
    assert "not significant" not in text


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


@pytest.mark.parametrize(("repeats", "ratio"), [(1, "one trial"), (2, "fewer than 11 steps")])
def test_few_steps_have_no_interval_and_say_so(repeats: int, ratio: str) -> None:
    """Of 10 steps 2 are warm-up and the third is looked at closely: 7 count, too few for blocks of them."""
    compared = untested(comparison(steps=10, repeats=repeats))
    of_time = {row["precision"]: row for row in compared["verdicts"]}["bf16"]
    of_time["step_time"] |= {"low": None, "high": None}
    row = codec.read(PrecisionRow, of_time)
    assert row.step_time is not None
    assert row.speed_ratio is not None
    assert no_interval(row, row.step_time) == "no interval: fewer than 11 steps"
    assert no_interval(row, row.speed_ratio) == f"no interval: {ratio}"
    assert "] no interval: fewer than 11 steps" in shown(compared, 120)


def test_repeats_of_one_seed_have_no_range_of_final_values_and_say_so() -> None:
    compared = comparison(repeats=2)
    for verdict in compared["verdicts"]:
        if verdict["loss"]:
            verdict["loss"]["final"] |= {"low": None, "high": None}
    for text in (shown(compared, 120), page.render(compared)):
        assert "no interval: one seed" in text
        assert "no interval: one trial" not in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_why_and_what_fits_and_energy_are_told(width: int) -> None:
    words = re.sub(r"\s+", " ", shown(metered(comparison()), width))
    assert (
        "Why fp16 gains little 69% Products as measured 17% Other as measured 5% Casts as measured" in words
    )
    assert "- A fact has no share" in words
    assert "Largest batch that fits into 2.00 GiB, by --batch-size" in words
    assert "fp32 128 images (192 did not fit) bf16 248 images, 1.94× (312 did not fit)" in words
    assert "fp16 none (even 1 did not fit)" in words
    assert "energy per step" in words
    assert "energy not measured" not in words


def test_energy_that_was_not_measured_is_said_once() -> None:
    words = re.sub(r"\s+", " ", shown(comparison(), 100))
    assert words.count("energy not measured: no energy counter: /sys/class/powercap holds no readable") == 1
    assert "energy per step" not in words


def test_columns_are_left_out_from_the_right_and_flow_beneath() -> None:
    for width in (60, 80, 100, 160):
        head = shown(comparison(), width).splitlines()[0]
        assert len(head) <= width
        assert head.split("  ")[0] == "precision"
    assert "peak memory" in shown(comparison(), 60).splitlines()[0]
    assert "memory ratio" in shown(comparison(), 80).splitlines()[0]
    assert "final loss" in shown(comparison(), 100).splitlines()[0]


WAYS = paths(metered(comparison(steps=8)))
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


@settings(max_examples=200)
@given(hits=st.lists(st.tuples(st.sampled_from(WAYS), st.sampled_from(PARTS)), max_size=12))
def test_missing_and_wrong_parts_never_raise(hits: list[tuple[tuple[Any, ...], Any]]) -> None:
    compared = metered(comparison(steps=8))
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


def test_what_an_unfinished_comparison_lacks_is_said_with_the_command_that_runs_it() -> None:
    labels = [f"bf16-seed{n}-repeat0" for n in range(4)]
    unfinished = comparison() | {"missing": labels}
    said = "Unfinished: 4 trials still to be run (bf16-seed0-repeat0, bf16-seed1-repeat0, bf16-seed2-repeat0, …)."
    assert said in shown(unfinished, 200)
    assert "next halfstep compare --resume ." in shown(unfinished, 200)
    assert said in " ".join(re.sub("<[^>]*>", " ", page.render(unfinished)).split())
    assert said in notebook.render(unfinished)
    assert "Unfinished" not in shown(comparison(), 200)


def test_what_is_stored_is_said_where_it_is_not_all_fp32() -> None:
    """A frozen base of 2 GiB in bf16 under adapters of 12 MiB in fp32, whose gradients and state are fp32."""
    compared = comparison()
    compared["verdicts"][0]["stored"] = {
        "weights": {"fp32": 12 * 2**20},
        "gradients": {},
        "optimizer": {"fp32": 24 * 2**20},
    }
    compared["verdicts"][2]["stored"] = {
        "weights": {"fp32": 24 * 2**20, "bf16": 2**31},
        "gradients": {"fp32": 12 * 2**20},
        "optimizer": {"bf16": float("nan"), "fp32": 5},
    }
    words = " ".join(shown(compared, 200).split())
    assert "stored weights bf16 2.00 GiB + fp32 24.0 MiB" in words
    assert words.count("stored weights") == 1
    assert "stored: weights bf16 2.00 GiB + fp32 24.0 MiB" in page.render(compared)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ({"value": 0.05, "low": None, "high": None, "significant": False}, "Why fp16 was slower"),
        (
            {"value": 1.2, "low": None, "high": None, "significant": False},
            "Why fp16 is not known to be faster",
        ),
        ({"value": 1.02, "low": 0.9, "high": 1.1, "significant": False}, "Why fp16 is not clearly faster"),
        ({"value": 0.5, "low": 0.4, "high": 0.6, "significant": True}, "Why fp16 is slower"),
    ],
)
def test_the_heading_says_what_was_seen(ratio: dict[str, Any], said: str) -> None:
    compared = comparison()
    compared["verdicts"][3]["speed_ratio"] = ratio
    assert said in " ".join(shown(compared, 200).split())


def test_a_path_longer_than_a_line_goes_on_in_the_next_without_a_space() -> None:
    path = "/home/someone/experiments/2026-11/train_small_model.py:120"
    lines = [str(line) for line in Sheet(24).flow([*Sheet(24).words("The program fails at"), Text(path)], 2)]
    assert all(len(line) <= 24 for line in lines)
    assert "".join(line.strip() for line in lines[1:]) == path
