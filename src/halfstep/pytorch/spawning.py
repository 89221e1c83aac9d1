"""Processes that the program spawns start afresh, without the recipe: one that trains ends the program, others run.

A process object is pickled for the process that it starts. What rides in it makes that process look out for training
(``spawned_process.py``), and leaves a note for this one, which reads it when the process is over.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing.process
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any, NoReturn

from halfstep.errors import Unsupported
from halfstep.pytorch.patches import Patches

_LOOKOUT = str(Path(__file__).with_name("spawned_process.py"))

_SENTENCE = (
    "The program trains in processes that it spawns (torch.multiprocessing.spawn), which halfstep cannot follow; start "
    "them with torchrun (Lightning: strategy='ddp', not 'ddp_spawn'), or run with --precision as-is."
)


class _Lookout:
    """Unpickled in a spawned process, it runs a file there that needs nothing of halfstep's."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def __reduce__(self) -> tuple[Any, ...]:
        return run_path, (_LOOKOUT, {"NOTE": str(self._note)})


def refuse(stop: Callable[[Unsupported], NoReturn], patches: Patches) -> None:
    """End the program when a process that it spawned was about to train.

    Args:
        stop: ends the program with a sentence.
        patches: where the replaced functions are remembered.
    """
    folder = functools.cache(_temporary_folder)

    def starting(original: Callable[..., None]) -> Callable[..., None]:
        def start(process: Any) -> None:
            note = folder() / "trains"
            process._halfstep = _Lookout(note)
            try:
                original(process)
            finally:
                del process._halfstep
            if getattr(process._popen, "method", "fork") != "fork":
                process._popen.poll = _polling(process._popen.poll, note, stop)

        return start

    patches.wrap(multiprocessing.process.BaseProcess, "start", starting)


def _temporary_folder() -> Path:
    """Made when it is needed, gone at the end."""
    made = tempfile.mkdtemp(prefix="halfstep-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _polling(
    original: Callable[..., int | None], note: Path, stop: Callable[[Unsupported], NoReturn]
) -> Callable[..., int | None]:
    """Every way to learn that a process is over asks this."""

    def poll(*args: Any, **kwargs: Any) -> int | None:
        code = original(*args, **kwargs)
        if code is not None and note.exists():
            note.unlink(missing_ok=True)
            try:
                stop(Unsupported(_SENTENCE))
            finally:
                if threading.current_thread() is not threading.main_thread():
                    # A pool's thread: the program waits for results, and the pool would start the process again.
                    os.kill(os.getpid(), signal.SIGTERM)
        return code

    return poll
