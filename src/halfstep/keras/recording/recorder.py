"""One line a step: loss, seconds, skipped, loss scale. Reads nothing off a device that is not long ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halfstep.record import NullWriter, StepLines, Writer

#: steps that a line waits on an accelerator, so that reading its numbers does not hold up the steps after it
LAG = 4


@dataclass
class Seen:
    """What was seen of a step; scalars of the backend, or plain numbers.

    Attributes:
        loss: before any scaling; None where there was none to see.
        scale: the factor that the loss was multiplied by; None for none.
        finite: whether the gradients were; None where nobody looked.
        samples: the batch's first dimension.
    """

    loss: Any = None
    scale: Any = None
    finite: Any = None
    samples: Any = None


class Recorder:
    """Counts steps and writes them to a record.

    Args:
        writer: the record.
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
    ) -> None:
        self.steps = 0
        self.skipped = 0
        self._writer = writer
        self._lag = LAG if on_accelerator else 0
        self._read = read
        self._wait = wait
        self._waiting: deque[tuple[int, Seen, float | None, bool]] = deque()
        self._last: float | None = None
        self._lines = StepLines(writer)

    def step(self, seen: Seen, sampled: bool = False, share: int = 1) -> None:
        """A step is over; ``share`` steps were made in the time since the last one, and this is one of them."""
        self._wait(seen.loss)
        now = time.perf_counter()
        if share and self._last is not None:
            self._seconds: float | None = (now - self._last) / share
        elif share:
            self._seconds = None
        self._waiting.append((self.steps, seen, self._seconds, sampled))
        self.steps += 1
        while len(self._waiting) > self._lag:
            self._line(*self._waiting.popleft())

    def resume(self) -> None:
        """What halfstep did since the step's end is no part of the next one's time."""
        self._last = time.perf_counter()

    def _line(self, index: int, seen: Seen, seconds: float | None, sampled: bool) -> None:
        loss = _number(seen.loss)
        finite = seen.finite is None or bool(seen.finite)
        self.skipped += not finite
        scale = 1.0 if seen.scale is None else float(seen.scale)
        self._lines.write(index, loss, seconds, not finite, scale, sampled)
        self._read(finite, scale)

    def write(self, event: str, **fields: Any) -> None:
        """Write an event of another kind."""
        self._writer.write(event, **fields)

    def close(self) -> None:
        """Write the lines that still wait."""
        while self._waiting:
            self._line(*self._waiting.popleft())


def _number(value: Any) -> float | None:
    """A scalar of any backend; None for what is none. PyTorch warns of one that still belongs to a graph."""
    try:
        return None if value is None else float(value.detach() if hasattr(value, "detach") else value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ):  # a loss for each sample, say, that the script's own step logs
        return None
