"""Profiles two steps with PyTorch: the first one's products by format, and where the second one's time went.

They are the sampled step and the next one; both are among the warm-up steps, and marked. The profiler starts and stops
between steps. One profiler serves both steps: if a region (a script's ``record_function`` around many steps) began
under one profiler and ended under another, the second would write into the memory of the first.
"""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict
from typing import Any

import torch
from torch.autograd.profiler import record_function

from halfstep.pytorch import devices
from halfstep.pytorch.fp32_units import sums_of
from halfstep.pytorch.recording import timeline
from halfstep.pytorch.recording.products import Counted, count
from halfstep.pytorch.recording.profiler import Profiler, of_the_step
from halfstep.pytorch.recording.timeline import Event
from halfstep.takeover.looks import Looks, look

PRODUCTS, TIMES, _STOPPING = "products by format", "shares of a step's time", "the profiler"
MOVED = "the training loop moved to another thread during the profiled step"
NO_KERNELS = (
    "the profiler saw none of the GPU's kernels (CUPTI, its library for that, may be missing or in use)"
)
NO_MARKS = "the profiler lost the marks of the step"
_SAMPLED, _BEGIN, _END = "halfstep: sampled step begins", "halfstep: step begins", "halfstep: step ends"


class Profile:
    """Profiles two steps: :meth:`begin`, :meth:`next_step` and :meth:`end` are called at the ends of steps."""

    def __init__(self, looks: Looks, emulated: str = "emulated") -> None:
        self._looks = looks
        self._emulated = emulated
        self._device = "cuda" if _cuda() else None
        self._profiler = Profiler(
            record_shapes=True, use_device=self._device, use_kineto=self._device is not None
        )
        self._thread = 0

    @look(PRODUCTS)
    def begin(self) -> None:
        """The sampled step begins: start the profiler, unless the script is using it."""
        _settle()
        self._profiler.begin()
        self._mark(_SAMPLED)

    @look(TIMES)
    def next_step(self) -> None:
        """The sampled step is over, and the next begins."""
        _settle()
        self._thread = threading.get_ident()
        self._mark(_BEGIN)

    @look(TIMES)
    def _finish(self) -> None:
        _settle()
        self._mark(_END)

    def _mark(self, name: str) -> None:
        if self._profiler.running:
            with record_function(name):
                pass

    def abandon(self) -> dict[str, object]:
        """Stop, as the program has ended within a step; returns the fields of a step that was complete."""
        sampled = self._thread != 0
        self._thread = 0
        events = self._looks.run(_STOPPING, 1, self._profiler.end) or []
        return self._products(events) if sampled else {}

    def end(self) -> dict[str, object]:
        """Stop; returns the fields of a record's ``sample`` event: FLOPs and shares of time, or why there are none."""
        self._finish()
        events = self._looks.run(_STOPPING, 1, self._profiler.end) or []
        return {**self._products(events), **self._times(events)}

    def _products(self, events: list[Any]) -> dict[str, object]:
        counted = self._counted(events)
        absent = self._looks.absent(PRODUCTS) if counted is None else counted.absent
        if counted is None or absent:
            return {"absent": absent}
        fields: dict[str, object] = {"matmul_flops": dict(counted.flops), "odd_flops": counted.odd}
        more = {
            "optimizer_flops": dict(counted.optimizer),
            "reduced_bytes": dict(counted.reduced),
            "sums": sums_of(counted.flops) if self._device else [],
        }
        return fields | {name: found for name, found in more.items() if found}

    @look(PRODUCTS)
    def _counted(self, events: list[Any]) -> Counted:
        marks = {event.name(): event for event in events if event.name() in (_SAMPLED, _BEGIN, _END)}
        end = marks.get(_BEGIN) or marks.get(_END)
        if _SAMPLED not in marks or end is None:
            return Counted(absent=self._profiler.absent or NO_MARKS)
        start, stop = marks[_SAMPLED].end_ns(), end.start_ns()
        within = [event for event in events if start <= event.start_ns() < stop]
        return count(of_the_step(within, self._profiler.beside), self._emulated)

    def _times(self, events: list[Any]) -> dict[str, object]:
        if not self._thread:
            return {}
        if self._profiler.absent:
            return {"time_shares_absent": self._profiler.absent}
        if (device := devices.in_use(devices.device_types())[-1]) not in ("cpu", "cuda"):
            return {"time_shares_absent": f"what {device} does is not profiled"}
        if threading.get_ident() != self._thread:
            return {"time_shares_absent": MOVED}
        return self._read(events) or {"time_shares_absent": self._looks.absent(TIMES)}

    @look(TIMES)
    def _read(self, events: list[Any]) -> dict[str, object]:
        return read(events, on_device=self._device is not None)


def read(events: Any, on_device: bool = False) -> dict[str, object]:
    """The shares of a profiled step.

    Args:
        events: the profiler's, of ``torch.autograd``'s Kineto results.
        on_device: whether the program uses a GPU. The host's time alone would not be the step's.
    """
    host, device = _sorted(events)
    if on_device and not device:
        return {"time_shares_absent": NO_KERNELS}
    begin = next((e for thread in host.values() for e in thread if e.name == _BEGIN), None)
    end = next((e for thread in host.values() for e in thread if e.name == _END), None)
    if begin is None or end is None:
        return {"time_shares_absent": NO_MARKS}
    start, stop = begin.end, end.start
    resolved = {thread: timeline.kinds(own) for thread, own in host.items()}
    main = resolved[begin.thread]
    if device:
        every = [pair for own in resolved.values() for pair in own]
        device = [event for event in device if start <= event.start < stop]
        ran = timeline.launched(device, every)
        spent, lengths = timeline.device_time(ran, main, start, stop), [e.end - e.start for e in device]
    else:
        within = [event for event, _ in main if start <= event.start < stop]
        spent, lengths = timeline.host_time(main, start, stop), _outermost(within)
    profiled = {
        "seconds": (stop - start) / 1e9,
        "device": "cuda" if device else "cpu",
        "operations": len(lengths),
        "median_operation_seconds": statistics.median(lengths) / 1e9 if lengths else None,
    }
    return {"time_shares": timeline.shares(spent), "profiled": profiled}


def _sorted(events: Any) -> tuple[dict[int, list[Event]], list[Event]]:
    """The operations by thread, and what ran on the device."""
    host: dict[int, list[Event]] = defaultdict(list)
    device: list[Event] = []
    for e in events:
        on_device = e.device_type() != torch._C._autograd.DeviceType.CPU
        if on_device and e.is_user_annotation():
            continue
        correlation = e.linked_correlation_id() if on_device else e.correlation_id()
        thread = 0 if on_device else e.start_thread_id()
        event = Event(e.name(), e.start_ns(), e.end_ns(), thread, correlation)
        (device if on_device else host[thread]).append(event)
    return host, device


def _outermost(events: list[Event]) -> list[int]:
    """The lengths, in ns, of the operations that lie in no other one: those that Python called."""
    lengths, until = [], 0
    for event in events:
        if event.name.startswith("aten::") and event.start >= until:
            until = event.end
            lengths.append(event.end - event.start)
    return lengths


def _cuda() -> bool:
    return bool(torch.cuda.is_initialized())


def _settle() -> None:
    """Wait for the device, so that the step's work lies between its marks. It synchronises, in this step only."""
    if _cuda():
        torch.cuda.synchronize()
