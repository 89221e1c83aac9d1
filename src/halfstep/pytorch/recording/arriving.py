"""Figures that a device may not have delivered yet: losses, whether a step was skipped, seconds between steps.

Nothing here waits for a device unless it is asked to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.pending_flag import Verdict


class Pending:
    """Stands for a value that has not arrived from the device yet."""


PENDING = Pending()

#: a figure, or a function that asks the device for it; called with True it waits
Figure = float | None | Callable[[bool], float | Pending | None]


def now(figure: Figure, wait: bool) -> float | Pending | None:
    return figure(wait) if callable(figure) else figure


def read(losses: list[Tensor]) -> Figure:
    """The sum of the losses, in float64; on a GPU, ask again later."""
    if not losses:
        return None
    device = next((loss.device for loss in losses if loss.is_cuda), None)
    if device is None:
        return sum(loss.item() for loss in losses)
    with torch.no_grad(), torch._C._DisableAutocast():
        parts = [x.double().reshape(()).to(device, non_blocking=True) for x in losses]
        host = torch.empty((), dtype=torch.float64, device="cpu", pin_memory=True)
        host.copy_(parts[0] if len(parts) == 1 else torch.stack(parts).sum(), non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))

    def arrived(wait: bool) -> float | Pending | None:
        if wait:
            event.synchronize()
        return float(host) if event.query() else PENDING

    return arrived


def known(skipped: bool | Verdict) -> Figure:
    """Whether a step was skipped; if its verdict is not read yet, ask again later."""
    if not isinstance(skipped, Verdict):
        return skipped
    return lambda wait: not skipped.finite if wait or skipped.arrived else PENDING


class HostClock:
    """Seconds between steps on the host's clock, without halfstep's work between ``lap`` and ``resume``."""

    def __init__(self) -> None:
        self._last: float | None = None

    def lap(self) -> Figure:
        """Seconds since ``resume``."""
        now = time.perf_counter()
        return None if self._last is None else now - self._last

    def resume(self, sampled: bool) -> None:
        """The script goes on."""
        self._last = time.perf_counter()


class CudaClock(HostClock):
    """Seconds between steps on the clock of ``device``, by events in its stream; to record an event costs no sync."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._previous: torch.cuda.Event | None = None

    def lap(self) -> Figure:
        before, now = self._previous, torch.cuda.Event(enable_timing=True)
        now.record(torch.cuda.current_stream(self._device))
        self._previous = now
        if before is None:
            return None

        def elapsed(wait: bool) -> float | Pending | None:
            if wait:
                before.synchronize()
                now.synchronize()
            # The earlier one may be in another stream, and come after the later one.
            return before.elapsed_time(now) / 1000 if before.query() and now.query() else PENDING

        return elapsed

    def resume(self, sampled: bool) -> None:
        """The script goes on; only halfstep's work after a sampled step is left out of the device's time."""
        if sampled:
            self._previous = torch.cuda.Event(enable_timing=True)
            self._previous.record(torch.cuda.current_stream(self._device))
