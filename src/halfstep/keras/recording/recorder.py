"""One line per step: loss, seconds, skipped, loss scale. It reads numbers from a device only when they are ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from halfstep.keras.step import Seen
from halfstep.record import NullWriter, StepLines, Writer
from halfstep.takeover.looks import LOSSES, SECONDS, Looks, look

#: for how many steps a line waits on an accelerator, so that reading its numbers does not delay the next steps
LAG = 4


class Recorder:
    """Counts steps and writes them to a record.

    Args:
        on_accelerator: lines wait for :data:`LAG` steps.
        read: called with (finite, scale) of each step when its line is written.
        wait: returns when a loss has been computed; a step's time is taken then.
    """

    def __init__(
        self,
        writer: Writer | NullWriter,
        on_accelerator: bool,
        read: Callable[[bool, float], None],
        wait: Callable[[Any], None],
        looks: Looks,
    ) -> None:
        self.steps = 0
        self.skipped = 0
        self._writer = writer
        self._lag = LAG if on_accelerator else 0
        self._read = read
        self._wait = wait
        self._looks = looks
        self._waiting: deque[tuple[int, Seen, float | None, bool]] = deque()
        self._last: float | None = None
        self._seconds: float | None = None
        self._lines = StepLines(writer)

    def step(self, seen: Seen, sampled: bool = False, share: int = 1) -> None:
        """A step is over; ``share`` steps were made in the time since the last one, and this is one of them."""
        self._waiting.append((self.steps, seen, self._time(seen.loss, share), sampled))
        self.steps += 1
        while len(self._waiting) > self._lag:
            self._line(*self._waiting.popleft())

    @look(SECONDS)
    def _time(self, loss: Any, share: int) -> float | None:
        self._wait(loss)
        now = time.perf_counter()
        if share:
            self._seconds = None if self._last is None else (now - self._last) / share
        return self._seconds

    def resume(self) -> None:
        """The next step's time begins now: halfstep's work since the last step's end is not part of it."""
        self._last = time.perf_counter()

    def _line(self, index: int, seen: Seen, seconds: float | None, sampled: bool) -> None:
        loss = self._number(seen.loss)
        finite = seen.finite is None or bool(seen.finite)
        self.skipped += not finite
        scale = 1.0 if seen.scale is None else float(seen.scale)
        self._lines.write(index, loss, seconds, not finite, scale, sampled)
        self._read(finite, scale)

    @look(LOSSES)
    def _number(self, loss: Any) -> float | None:
        return _number(loss)

    def close(self) -> None:
        """Write the lines that still wait."""
        while self._waiting:
            self._line(*self._waiting.popleft())


def _number(value: Any) -> float | None:
    """A scalar of any backend as a number; None for what is no scalar. PyTorch warns of one that belongs to a graph."""
    try:
        return None if value is None else float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):  # such as a loss per sample that the script's own step logs
        return None
