"""Which frames of halfstep's an uncaught exception shows: those of what it raised itself, none that stand around."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from halfstep.program.uncaught import show_without_our_frames, stands_around
from halfstep.takeover.patches import Patches

#: functions of a module of halfstep's, each around ``float`` by a name of its own
SOURCE = """
def around(float_):
    def new(*args):
        return float_(*args)
    return new

def around_in_a_with(inner):
    def new(*args):
        with context():
            return inner(*args)
    return new

def refusing(original):
    def new(*args):
        raise ValueError("original(args) is refused")
    return new

def helper(call, *args):
    return call(*args)

def failing(original):
    def new(*args):
        return fails(original(1))
    return new

def fails(x):
    return float(None)
"""


@pytest.fixture
def ours() -> dict[str, Any]:
    from contextlib import nullcontext

    made: dict[str, Any] = {"__name__": "halfstep.made_up", "context": nullcontext}
    exec(compile(SOURCE, "made_up.py", "exec"), made)
    return made


def _shown(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions in the traceback of ``call``, below this file's."""
    shown: list[TracebackType | None] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(trace))
    monkeypatch.delattr(sys, "last_traceback", raising=False)
    show_without_our_frames("no such file", lambda: None)
    try:
        call()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    monkeypatch.undo()
    return [frame.name for frame in traceback.extract_tb(shown[0])][1:]


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        ("around", ["<lambda>"]),
        ("around_in_a_with", ["<lambda>"]),
        ("refusing", ["<lambda>", "new"]),
        ("failing", ["<lambda>", "new", "fails"]),
    ],
)
def test_only_what_halfstep_raises_itself_is_seen_in_a_traceback(
    ours: dict[str, Any], make: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    framework = SimpleNamespace(convert=float)
    patches = Patches()
    patches.wrap(framework, "convert", ours[make])
    assert _shown(lambda: framework.convert("no number"), monkeypatch) == seen


def test_a_helper_that_is_marked_is_left_out(ours: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    call = ours["helper"]
    assert _shown(lambda: call(float, "no number"), monkeypatch) == ["<lambda>", "helper"]
    stands_around(call)
    assert _shown(lambda: call(float, "no number"), monkeypatch) == ["<lambda>"]
