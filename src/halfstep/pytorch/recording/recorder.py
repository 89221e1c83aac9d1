"""Writes one line per step: loss, seconds, skipped, loss scale. It reads from a device only what is ready.

On a GPU a loss is copied to pinned memory in the order of the stream and written when the copy has arrived, and steps
are timed by CUDA events: it adds no synchronisation.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling.pending_flag import Verdict
from halfstep.pytorch.recording.arriving import CudaClock, Figure, HostClock, Pending, known, now, read
from halfstep.pytorch.recording.counted_optimizer import CountedOptimizer
from halfstep.record import NullWriter, StepLines, Writer
from halfstep.takeover.looks import LOSSES, SECONDS, Looks, look

CAPTURED = (
    "the program captures its steps into a CUDA graph: the graph's replays are not seen, so they are neither counted "
    "nor timed"
)

_LINES, _CLOSE_LOOK = "steps", "the close look at a step"
_LOGGED = "figures of the script's own"


class Line(NamedTuple):
    """A step some of whose figures have not arrived from the device yet."""

    step: int
    loss: Figure
    seconds: Figure
    skipped: Figure
    scale: float
    sampled: bool


class NullRecorder:
    """Only counts the steps: no record was asked for.

    Args:
        on_step: called with the index of each step that has ended.
    """

    def __init__(self, on_step: Callable[[int], Any] = lambda index: None) -> None:
        self.steps = 0
        self._on_step = on_step
        self._counted = CountedOptimizer()

    def is_primary(self, optimizer: Optimizer) -> bool:
        """Whether the step that ``optimizer`` is making is one of the program's."""
        counts, beside = self._counted.counts(optimizer, self.steps)
        if beside:
            self._forget_passes_of(threading.get_ident())
        return counts

    def backward(self, outputs: Sequence[Tensor]) -> None:
        """A backward pass is about to start from ``outputs``."""

    def scaled(self, losses: Sequence[Tensor], by_script: Sequence[Tensor]) -> None:
        """The script's own scaler has multiplied ``losses``, which gave ``by_script``."""

    def forget_passes(self) -> None:
        """The backward passes so far belonged to a step that was recorded elsewhere."""

    def _forget_passes_of(self, thread: int) -> None:
        """The backward passes of ``thread`` belonged to a step that does not count."""

    def closure_done(self) -> None:
        """An optimizer's closure has returned: its first loss is the step's."""

    def step(self, skipped: bool | Verdict, loss_scale: float) -> None:
        """The optimizer that counts has stepped, or skipped the step, or it is not known yet which."""
        self.steps += 1
        self._on_step(self.steps - 1)

    def restart(self) -> None:
        """Count from 0 again: the steps so far were not steps of the training."""
        self.steps = 0

    def captured(self) -> None:
        """A step was captured into a CUDA graph, whose replays are not seen."""

    def write(self, event: str, **fields: Any) -> None:
        """Write an event of another kind."""

    def logged(self, name: str, value: Any) -> None:
        """Write a figure that the script logs, a number or a tensor of one; anything else is ignored."""

    def close(self) -> None:
        """Write what has not arrived from a device yet."""


class Recorder(NullRecorder):
    """Writes each step to a record.

    Args:
        on_step: called at the end of each step with its index; returns whether the step was sampled.
        done: called with a step's index when its work is done, on a GPU possibly later.
    """

    def __init__(
        self,
        writer: Writer | NullWriter,
        on_step: Callable[[int], bool],
        looks: Looks,
        done: Callable[[int], None] = lambda index: None,
    ) -> None:
        super().__init__()
        self._done = done
        self._writer = writer
        self._looks = looks
        self._lines = StepLines(writer)
        self._on_step = on_step
        self._losses: defaultdict[int, list[Tensor]] = defaultdict(list)  # of each thread
        self._sums: dict[int, Tensor] = {}  # those on a GPU
        self._unscaled = WeakTensorKeyDictionary()
        self._closed = False
        self._clock = HostClock()
        self._waiting: deque[Line] = deque()
        self._figures: deque[tuple[str, int, Figure]] = deque()
        self._warned = False

    @look(LOSSES)
    def backward(self, outputs: Sequence[Tensor]) -> None:
        if not self._closed:
            # The gradients of several passes add up to the gradient of the summed losses, so their sum is the step's
            # loss.
            losses = [output for output in outputs if output.numel() == 1 and not output.is_complex()]
            if self._unscaled:
                losses = [self._unscaled.get(loss, loss) for loss in losses]
            for loss in losses:
                self._add(loss.detach())

    @look(LOSSES)
    def scaled(self, losses: Sequence[Tensor], by_script: Sequence[Tensor]) -> None:
        # The record gets the loss, not the loss times 65536.
        pairs = zip(by_script, losses, strict=False)
        self._unscaled.update((s, loss.detach()) for s, loss in pairs if isinstance(loss, Tensor))

    def _add(self, loss: Tensor) -> None:
        """Add a loss of the step. On a GPU it is added at once, since the next replay of a CUDA graph overwrites it."""
        here = threading.get_ident()
        if not loss.is_cuda:
            self._losses[here].append(loss)
        elif not capturing():
            with torch.no_grad(), torch._C._DisableAutocast():
                if (added := self._sums.get(here)) is None:
                    self._sums[here] = loss.to(torch.float64, copy=True).reshape(())
                else:
                    added += loss.reshape(()).to(added.device, non_blocking=True)

    def forget_passes(self) -> None:
        self._losses, self._sums = defaultdict(list), {}

    def _forget_passes_of(self, thread: int) -> None:
        self._losses.pop(thread, None)
        self._sums.pop(thread, None)

    def _of_the_step(self) -> list[Tensor]:
        """The losses of the thread that steps; if it has none, those of all threads, whose passes it steps for."""
        here = threading.get_ident()
        of_each = [*self._losses.items(), *((thread, [added]) for thread, added in self._sums.items())]
        self.forget_passes()
        own = [loss for thread, losses in of_each if thread == here for loss in losses]
        return own or [loss for _, losses in of_each for loss in losses]

    def closure_done(self) -> None:
        self._closed = True

    def step(self, skipped: bool | Verdict, loss_scale: float) -> None:
        index = self.steps
        self.steps += 1
        losses = self._looks.run(LOSSES, 1, self._of_the_step) or []
        self._closed = False
        seconds = self._seconds(losses)
        loss = self._loss(losses)
        sampled = bool(self._looks.run(_CLOSE_LOOK, 1, self._on_step, index))
        self._line(index, loss, seconds, skipped, loss_scale, sampled)
        self._resume(sampled)

    @look(SECONDS)
    def _seconds(self, losses: list[Tensor]) -> Figure:
        if losses and losses[-1].is_cuda and not isinstance(self._clock, CudaClock):
            self._clock = CudaClock(losses[-1].device)
        return self._clock.lap()

    @look(SECONDS)
    def _resume(self, sampled: bool) -> None:
        self._clock.resume(sampled)

    @look(_LINES)
    def _line(
        self, index: int, loss: Figure, seconds: Figure, skipped: bool | Verdict, scale: float, sampled: bool
    ) -> None:
        line = Line(index, loss, seconds, known(skipped), scale, sampled)
        if self._waiting or any(callable(part) for part in (line.loss, line.seconds, line.skipped)):
            self._waiting.append(line)
            self._flush(wait=False)
        else:
            self._write_line(line, line.loss, line.seconds, line.skipped)

    def _write_line(self, line: Line, loss: Any, seconds: Any, skipped: Any) -> None:
        self._lines.write(line.step, loss, seconds, bool(skipped), line.scale, line.sampled)
        self._done(line.step)

    @look(LOSSES)
    def _loss(self, losses: list[Tensor]) -> Figure:
        return read(losses)

    def captured(self) -> None:
        self.forget_passes()
        if not self._warned:
            self._warned = True
            self.write("warning", text=CAPTURED)

    def restart(self) -> None:
        self._flush(wait=True)
        self.forget_passes()
        super().restart()

    def _flush(self, wait: bool) -> None:
        """Write the steps whose figures have all arrived, in order."""
        while self._waiting:
            line = self._waiting[0]
            loss, seconds, skipped = (now(part, wait) for part in (line.loss, line.seconds, line.skipped))
            if isinstance(loss, Pending) or isinstance(seconds, Pending) or isinstance(skipped, Pending):
                return
            self._waiting.popleft()
            self._write_line(line, loss, seconds, skipped)

    def write(self, event: str, **fields: Any) -> None:
        self._writer.write(event, **fields)

    @look(_LOGGED)
    def logged(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            self._figures.append((name, self.steps, read([value.detach()])))
        elif isinstance(value, SupportsFloat) and not isinstance(value, Tensor):
            self._figures.append((name, self.steps, float(value)))
        self._flush_figures(wait=False)

    def _flush_figures(self, wait: bool) -> None:
        """Write the logged figures that have arrived, in order."""
        while self._figures:
            name, step, figure = self._figures[0]
            value = now(figure, wait)
            if isinstance(value, Pending):
                return
            self._figures.popleft()
            self.write("logged", name=name, value=value, step=step)

    def close(self) -> None:
        self._flush(wait=True)
        self._flush_figures(wait=True)
