"""What only looks may fail: it is absent with the reason, and the program goes on with the numbers it would have had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from halfstep.keras.recording.recorder import Recorder
from halfstep.keras.step import Seen
from halfstep.record import NullWriter
from halfstep.takeover.looks import Looks

from ..conftest import BACKENDS, Turn

Run = Callable[[str], dict[str, Turn]]


def looks() -> Looks:
    return Looks(NullWriter().write)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_look_that_fails_changes_no_number_and_says_why(in_turn: Run, backend: str) -> None:
    plain, planted = in_turn(backend)["looks"], in_turn(backend)["looks fail"]
    assert planted.facts == plain.facts
    assert len(planted.record.steps) == len(plain.record.steps) == 5
    assert planted.record.sample["absent"] == "the products could not be counted: planted"
    for look in ("losses", "peak memory and energy"):
        assert planted.record.absent[look].startswith("RuntimeError: planted")
    reason = "a variable could not be looked at: planted"
    assert planted.record.stored.absent == dict.fromkeys(("weights", "gradients", "optimizer"), reason)


@pytest.mark.slow
def test_watching_that_fails_changes_no_number_and_says_why(in_turn: Run) -> None:
    plain, planted = in_turn("torch")["looks"], in_turn("torch")["watching fails"]
    assert planted.facts == plain.facts
    assert planted.record.absent["watching: optimizers"].startswith("RuntimeError: planted")
    assert len(planted.record.steps) == 5


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_stored_is_measured_by_format(in_turn: Run, backend: str) -> None:
    """4 x 3 + 3 + 3 + 1 weights; Adam has two moments of each, its learning rate in fp32, and counts steps."""
    stored = in_turn(backend)["looks"].record.stored
    assert stored.weights == stored.gradients == {"fp32": 4 * 19}
    assert stored.optimizer is not None
    assert stored.optimizer["fp32"] == 4 * (2 * 19 + 1)
    true = in_turn(backend)["keras-bf16-true"].record.stored
    assert true.weights == {"bf16": 2 * (9 * 4 + 4), "fp32": 4 * (16 + 1)}, "its last layer asks for float32"


def test_a_step_whose_end_cannot_be_waited_for_is_counted_without_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(loss: Any) -> None:
        raise LookupError("planted")

    lines: list[tuple[Any, ...]] = []
    failing = looks()
    recorder = Recorder(NullWriter(), False, lambda finite, scale: None, wait, failing)
    monkeypatch.setattr(recorder._lines, "write", lambda *line: lines.append(line))
    for loss in (5.0, 2.0):
        recorder.step(Seen(loss=loss))
        recorder.resume()
    assert [line[:3] for line in lines] == [(0, 5.0, None), (1, 2.0, None)]
    assert failing.absent("seconds per step").startswith("LookupError: planted")


@pytest.mark.parametrize("loss", [None, [1.0, 2.0], "none"])
def test_a_loss_that_is_no_scalar_is_no_loss(loss: Any) -> None:
    lines: list[Any] = []
    recorder = Recorder(
        NullWriter(), False, lambda finite, scale: lines.append((finite, scale)), lambda x: None, looks()
    )
    recorder.step(Seen(loss=loss))
    assert lines == [(True, 1.0)]


def test_the_time_of_a_step_is_taken_when_its_loss_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by what was waited for."""
    clock = [0.0]
    monkeypatch.setattr("halfstep.keras.recording.recorder.time.perf_counter", lambda: clock[0])

    def wait(loss: float) -> None:
        clock[0] += loss

    seconds: list[float | None] = []
    recorder = Recorder(NullWriter(), False, lambda finite, scale: None, wait, looks())
    monkeypatch.setattr(recorder._lines, "write", lambda index, loss, took, *rest: seconds.append(took))
    for loss in (5.0, 2.0, 3.0):
        recorder.step(Seen(loss=loss))
        recorder.resume()
    assert seconds == [None, 2.0, 3.0]
