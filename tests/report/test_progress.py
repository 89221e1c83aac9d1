"""Trials as they run, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from halfstep.report.progress import Live, Progress


def run(console: Console, steps: int | None = 2) -> None:
    with Progress(console) as progress:
        progress.plan(["bf16", "fp16"])
        progress.begin("bf16, repeat 0", steps)
        progress.advance("bf16, repeat 0", 1, 2.3141, 0.1423)
        progress.advance("bf16, repeat 0", 2, None, None)
        progress.finish("bf16, repeat 0", "ok", "142 ms ± 3 ms")
        progress.begin("fp16, repeat 0", steps)
        progress.finish("fp16, repeat 0", "out_of_memory", "the device has 8 GiB")


def test_a_log_gets_a_line_a_beginning_and_an_end() -> None:
    stream = io.StringIO()
    run(Console(file=stream, width=20))
    assert stream.getvalue().splitlines() == [
        "trial 1 of 2: bf16, repeat 0, 2 steps",
        "ok  bf16, repeat 0: 142 ms ± 3 ms",
        "trial 2 of 2: fp16, repeat 0, 2 steps",
        "out of memory  fp16, repeat 0: the device has 8 GiB",
    ]


@pytest.mark.parametrize("steps", [None, 0, 2])
def test_a_terminal_gets_bars_and_keeps_the_endings(steps: int | None) -> None:
    stream = io.StringIO()
    run(Console(file=stream, width=140, force_terminal=True, color_system=None), steps)
    assert "ok  bf16, repeat 0: 142 ms ± 3 ms" in stream.getvalue()
    assert "out of memory  fp16, repeat 0: the device has 8 GiB" in stream.getvalue()
    assert "2 of 2" in stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_leaves_the_figures_their_room(width: int) -> None:
    stream, label = io.StringIO(), "bf16:keep=encoder.layers.*.norm,lm_head-seed0-repeat1"
    live = Live(Console(file=stream, width=width, force_terminal=True, color_system=None))
    live.start()
    live.plan(6)
    live.begin(label, 600)
    live.advance(label, 123, "loss 2.31  142 ms per step")
    live._bars.refresh()
    live.stop()
    drawn = [line for line in stream.getvalue().splitlines() if "123/600" in line]
    assert drawn
    for line in drawn:
        assert "bf16:keep=encoder.l" in line
        assert "123/600  loss 2.31  142 ms per step" in line
        assert ("-:--:--" in line) == (width >= 80)


def test_a_trial_added_later_lengthens_the_one_bar() -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=140, force_terminal=True, color_system=None)) as progress:
        progress.plan(1)
        progress.begin("bf16", 1)
        progress.finish("bf16", "ok", "")
        progress.plan(3)
    assert "1 of 3" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[1A\x1b[2K")  # one line is wiped at the end: one bar


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_labels_are_shown_not_obeyed(terminal: bool) -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=140, force_terminal=terminal, color_system=None)) as progress:
        progress.plan(1)
        progress.begin("[red]x[/red]\x1b[2J\n", 3)
        progress.advance("[red]x[/red]\x1b[2J\n", 1, 1.0, 1.0)
        progress.finish("[red]x[/red]\x1b[2J\n", "[/]", "[bold]\x07")
    assert "[red]x[/red]" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


def test_an_ascii_log_loses_no_line() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run(Console(file=stream, width=80))
    stream.flush()
    stream.seek(0)
    assert len(stream.read().splitlines()) == 4


def test_a_step_of_an_unknown_trial_changes_nothing() -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=80, force_terminal=True, color_system=None)) as progress:
        progress.advance("nobody", 1, 1.0, 1.0)
        progress.finish("nobody", "failed", "")
    assert "failed  nobody" in stream.getvalue()
