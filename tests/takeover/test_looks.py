"""A look that fails is absent with the reason; what ends a program on purpose ends it."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.errors import UsageError
from halfstep.takeover.base import EnoughSteps
from halfstep.takeover.looks import Looks, look


class Watcher:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._looks = Looks(lambda event, **fields: self.events.append({"event": event, **fields}))
        self.calls = 0

    @look("losses", tries=2)
    def losses(self, error: BaseException | None) -> int:
        self.calls += 1
        if error is not None:
            raise error
        return self.calls


def test_a_failure_is_written_once_and_the_look_given_up_after_its_tries() -> None:
    watcher = Watcher()
    assert watcher.losses(None) == 1
    assert watcher.losses(TypeError("no numbers\nmore")) is None
    assert watcher.losses(None) == 3
    assert watcher.losses(ValueError("again")) is None
    assert watcher.losses(None) is None
    assert watcher.calls == 4
    (event,) = watcher.events
    assert event == {
        "event": "absent",
        "look": "losses",
        "reason": "TypeError: no numbers",
        "given_up": False,
    }


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), EnoughSteps(), UsageError("a mistake")]
)
def test_what_is_meant_to_end_the_program_does(error: BaseException) -> None:
    watcher = Watcher()
    with pytest.raises(type(error)):
        watcher.losses(error)
    assert watcher.events == []
