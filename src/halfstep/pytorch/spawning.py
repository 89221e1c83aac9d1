"""Processes that the program spawns start without the recipe: one that trains ends the program, others run.

A process object is pickled for the process that it starts. An object inside it makes that process watch for training
(``spawned_process.py``) and leave a note, which this process reads when the other one is over.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing.process
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any, NoReturn

from halfstep.errors import Unsupported
from halfstep.program.sigterm import raise_in_main_thread
from halfstep.pytorch.patches import Patches

_LOOKOUT = str(Path(__file__).with_name("spawned_process.py"))

_SENTENCE = (
    "The program trains in processes that it spawns (torch.multiprocessing.spawn), which halfstep cannot follow; start "
    "them with torchrun (Lightning: strategy='ddp', not 'ddp_spawn'), or run with --precision as-is."
)


class _Lookout:
    """An object that, unpickled in a spawned process, runs a file there that needs nothing of halfstep."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def __reduce__(self) -> tuple[Any, ...]:
        return run_path, (_LOOKOUT, {"NOTE": str(self._note)})


def refuse(stop: Callable[[Unsupported], NoReturn], patches: Patches) -> None:
    """End the program when a process that it spawned was about to train."""
    folder, refused = functools.cache(_temporary_folder), threading.Event()

    def starting(original: Callable[..., None]) -> Callable[..., None]:
        def start(process: Any) -> None:
            note = folder() / "trains"
            if refused.is_set() and threading.current_thread() is threading.main_thread():
                note.unlink(
                    missing_ok=True
                )  # the program goes on after the refusal, and starts processes again
                refused.clear()
            process._halfstep = _Lookout(note)
            try:
                original(process)
            finally:
                del process._halfstep
            if getattr(process._popen, "method", "fork") != "fork":
                process._popen.poll = _polling(process._popen.poll, note, refused, stop)

        return start

    patches.wrap(multiprocessing.process.BaseProcess, "start", starting)


def _temporary_folder() -> Path:
    """A folder that is made when it is needed, and removed at the end."""
    made = tempfile.mkdtemp(prefix="halfstep-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _polling(
    original: Callable[..., int | None],
    note: Path,
    refused: threading.Event,
    stop: Callable[[Unsupported], NoReturn],
) -> Callable[..., int | None]:
    """Wrap the ``poll`` that every way to wait for a process calls; a pool meanwhile starts another process."""

    def poll(*args: Any, **kwargs: Any) -> int | None:
        code = original(*args, **kwargs)
        if code is not None and note.exists() and not refused.is_set():
            refused.set()
            try:
                stop(Unsupported(_SENTENCE))
            except BaseException as error:
                if threading.current_thread() is threading.main_thread():
                    raise
                # In a pool's own thread, which the pool needs to end, while the main thread waits for results.
                raise_in_main_thread(error)
        return code

    return poll
