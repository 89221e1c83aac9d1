"""One step under PyTorch's profiler: which share of it went to products, to casts, to the optimizer, to the host.

The step after the sampled one, so it is among the warm-up steps too, and marked. The profiler's own start and stop lie
between steps and are not part of any.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import profiler as autograd_profiler
from torch.autograd.profiler import record_function

from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording import timeline
from halfstep.pytorch.recording.timeline import Event

_BEGIN, _END = "halfstep: step begins", "halfstep: step ends"


class Profile:
    """Profiles the step between :meth:`begin` and :meth:`end`, which are called at the ends of steps."""

    def __init__(self) -> None:
        self._profile: Any = None
        self._absent = ""
        self._thread = 0
        self._patches = Patches()

    def begin(self) -> None:
        """Start the profiler, unless the script uses it itself at this moment."""
        self._thread = threading.get_ident()
        if torch._C._autograd._profiler_enabled():
            self._absent = "the script's own profiler was running"
            return
        with _silent():
            self._profile = autograd_profiler.profile(use_device="cuda" if _cuda() else None)
            _settle()
            self._profile.__enter__()
        # A script that starts a profiler of its own in this very step gets it: there can be only one.
        self._patches.wrap(autograd_profiler, "_prepare_profiler", self._yield_to_script)
        self._patches.wrap(autograd_profiler, "_enable_profiler", self._yield_to_script)
        with record_function(_BEGIN):
            pass

    def _yield_to_script(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            self._abandon("the script started a profiler of its own in the step")
            return original(*args, **kwargs)

        return start

    def _abandon(self, why: str) -> None:
        self._patches.undo()
        self._absent = why
        profile, self._profile = self._profile, None
        with _silent():
            profile.__exit__(None, None, None)

    def end(self) -> dict[str, Any]:
        """Stop; fields of a record's ``sample`` event: ``time_shares`` and ``profiled``, or why there are none."""
        if self._profile is not None and threading.get_ident() != self._thread:
            self._absent = "the training loop moved to another thread during the profiled step"
        if self._absent or self._profile is None:
            self._patches.undo()
            return {"time_shares_absent": self._absent}
        self._patches.undo()
        _settle()
        with record_function(_END):
            pass
        profile, self._profile = self._profile, None
        with _silent():
            profile.__exit__(None, None, None)
        return read(profile.kineto_results.events())


def read(events: Any) -> dict[str, Any]:
    """The shares of a profiled step, from the profiler's events (of ``torch.autograd``'s Kineto results)."""
    host, device = _sorted(events)
    begin = next((e for thread in host.values() for e in thread if e.name == _BEGIN), None)
    end = next((e for thread in host.values() for e in thread if e.name == _END), None)
    if begin is None or end is None:
        return {"time_shares_absent": "the profiler lost the marks of the step"}
    start, stop = begin.end, end.start
    resolved = {thread: timeline.kinds(own) for thread, own in host.items()}
    main = resolved[begin.thread]
    if device:
        every = [pair for own in resolved.values() for pair in own]
        ran = timeline.launched(device, every)
        spent, lengths = timeline.device_time(ran, main, start, stop), [e.end - e.start for e in device]
    else:
        spent, lengths = timeline.host_time(main, start, stop), _outermost([e for e, _ in main])
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
    """The lengths, in ns, of the operations that lie in no other: what Python called."""
    lengths, until = [], 0
    for event in events:
        if event.name.startswith("aten::") and event.start >= until:
            until = event.end
            lengths.append(event.end - event.start)
    return lengths


def _cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def _settle() -> None:
    """Let the device finish: the step's work is to lie between its marks. A sync, in this step alone."""
    if _cuda():
        torch.cuda.synchronize()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Kineto writes lines of its own to stderr, which are not the script's."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = before
