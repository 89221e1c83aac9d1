"""PyTorch's profiler, for a step: in every thread, and never in the way of a profiler of the script's own."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import profiler as autograd_profiler

from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.beside import other_threads

RUNNING = "the script's own profiler was running"
STARTED = "the script started a profiler of its own in the step"
SWAPPED = "the script swapped tensors in the step, which may have no weak references then, as the profiler holds them"


class Profiler:
    """Runs between :meth:`begin` and :meth:`end`.

    Its observers are the process's, not a thread's: it may begin inside of a backward pass or of a compiled frame,
    where what belongs to a thread is put back as it was, and end outside, or in another thread.

    Args:
        options: those of ``torch.autograd.profiler.profile``.

    Attributes:
        absent: why there are no events, or not all; empty where there are.
        beside: the threads that were there when it was begun, but for those that began and ended it.
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
        """Whether it was begun, and the script's own has not taken its place."""
        return self._profile is not None

    def begin(self) -> None:
        """Start, unless the script uses the profiler itself at this moment."""
        if torch._C._autograd._profiler_enabled() or autograd_profiler._is_profiler_enabled:
            self.absent = RUNNING
            return
        self.beside = other_threads()
        # One that still runs when the interpreter is gone ends the process with a segmentation fault.
        atexit.register(self._end_early)
        everywhere = _ExperimentalConfig(profile_all_threads=True)
        with _silent():
            self._profile = autograd_profiler.profile(experimental_config=everywhere, **self._options)
            self._profile.__enter__()
        # A script that starts a profiler of its own in this very step gets it: there can be only one.
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
        """Stop, and keep the events until they are asked for: the record may be closed later."""
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
        """Stop; the events, of ``torch.autograd``'s Kineto results, up to where the script's own began."""
        self.beside.discard(threading.get_native_id())
        profile = self._stop() or self._stopped
        return [] if profile is None else profile.kineto_results.events()


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
