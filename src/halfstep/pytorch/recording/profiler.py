"""Runs PyTorch's profiler for a step, in every thread, unless the script uses the profiler itself."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import profiler as autograd_profiler

from halfstep.pytorch.patches import Patches

RUNNING = "the script's own profiler was running"
STARTED = "the script started a profiler of its own in the step"
SWAPPED = "the script swapped tensors in the step, which may have no weak references then, as the profiler holds them"


class Profiler:
    """Runs between :meth:`begin` and :meth:`end`.

    Its observers belong to the process, not to a thread. So it may begin inside a backward pass or a compiled frame,
    which restore the state of their thread, and end outside or in another thread.

    Args:
        options: those of ``torch.autograd.profiler.profile``.

    Attributes:
        absent: why events are missing; empty if none is.
        beside: the threads that existed when it was begun, except those that began and ended it.
    """

    def __init__(self, **options: Any) -> None:
        self.absent = ""
        self.beside: set[int] = set()
        self._options = options
        self._profile: Any = None
        self._stopped: Any = None
        self._patches = Patches()

    @property
    def running(self) -> bool:
        """Whether it was begun and the script has not started its own."""
        return self._profile is not None

    def begin(self) -> None:
        """Start, unless the script is using the profiler."""
        if torch._C._autograd._profiler_enabled() or autograd_profiler._is_profiler_enabled:
            self.absent = RUNNING
            return
        self.beside = other_threads()
        # A profiler that still runs when the interpreter is gone would end the process with a segmentation fault.
        atexit.register(self._end_early)
        everywhere = _ExperimentalConfig(profile_all_threads=True)
        with _silent():
            self._profile = autograd_profiler.profile(experimental_config=everywhere, **self._options)
            self._profile.__enter__()
        # There can be only one: a script that starts its own profiler in this step gets it.
        self._patches.wrap(autograd_profiler, "_prepare_profiler", self._yield_to_script)
        self._patches.wrap(autograd_profiler, "_enable_profiler", self._yield_to_script)
        if self._options.get("record_shapes"):
            self._patches.wrap(torch._C, "_swap_tensor_impl", self._yield_to_swap)

    def _yield_to_script(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            self.absent = STARTED
            self._stopped = self._stop()
            return original(*args, **kwargs)

        return start

    def _yield_to_swap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def swap(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                self.absent = SWAPPED
                self._stop()
            return original(*args, **kwargs)

        return swap

    def _end_early(self) -> None:
        """Stop, and keep the events until they are needed: the record may be closed later."""
        self._stopped = self._stop()

    def _stop(self) -> Any:
        atexit.unregister(self._end_early)
        self._patches.undo()
        profile, self._profile = self._profile, None
        if profile is not None:
            with _silent():
                profile.__exit__(None, None, None)
        return profile

    def end(self) -> list[Any]:
        """Stop; returns Kineto's events, up to the start of a profiler of the script."""
        self.beside.discard(threading.get_native_id())
        profile = self._stop() or self._stopped
        return [] if profile is None else profile.kineto_results.events()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the lines that Kineto writes to stderr."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = before


# --- threads that compute beside a step: one prepares data, or trains another model -----------------------


def other_threads() -> set[int]:
    """The system's numbers of all other Python threads; none if this one is not a Python thread."""
    threads = {thread.native_id for thread in threading.enumerate()}
    here = threading.get_native_id()
    return {number for number in threads if number is not None} - {here} if here in threads else set()


def of_the_step(events: Iterable[Any], beside: Collection[int]) -> list[Any]:
    """The events of a step, without those of threads that only ran at the same time.

    A thread takes part if it was started in the step, or if a backward pass connects it with one that takes part: one
    of them computed the forward pass and the other the backward pass. If those threads ran no backward pass (only the
    optimizer steps in its own thread), all threads take part.

    Args:
        events: of Kineto's.
        beside: the system's numbers of threads that existed before the step and have not stepped.
    """
    events = list(events)
    if not beside:
        return events
    part = {event.start_thread_id() for event in events if event.device_resource_id() not in beside}
    joined = {(event.start_thread_id(), event.fwd_thread_id()) for event in events if event.fwd_thread_id()}
    while more := {thread for pair in joined if not part.isdisjoint(pair) for thread in pair} - part:
        part |= more
    found = [event for event in events if event.start_thread_id() in part]
    return found if any(event.fwd_thread_id() for event in found) else events
