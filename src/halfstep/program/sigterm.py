"""Calls functions before SIGTERM ends the process, and lets another thread end the main thread by SIGTERM."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from halfstep import processes


def before_sigterm(callback: Callable[[], None]) -> None:
    """Call `callback()` before SIGTERM ends this process, which still ends with exit code -15; the newest goes first.

    Only in the main thread, and only while nobody else handles SIGTERM; otherwise this does nothing. The program
    sees the default handler, and may put its own in its place. Forked children have the real default.

    While Python waits inside a long call of a C library, SIGTERM takes effect when that call returns.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    current = _signal.getsignal(signal.SIGTERM)
    if not isinstance(current, _Default):
        if current != signal.SIG_DFL:
            return
        _watch()
    _callbacks.append(callback)


def raise_in_main_thread(error: BaseException) -> None:
    """Raise `error` in the main thread, whatever it waits for: only a signal ends its waiting for a lock.

    A program that handles SIGTERM by itself has its own handler called instead. Where a signal cannot be sent to a
    thread (Windows), SIGTERM ends the process.
    """
    global _to_raise
    _to_raise = error
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


class _Default(int):
    """The number SIG_DFL, as an object that can be called.

    So `signal.getsignal` and `signal.signal` show the program `Handlers.SIG_DFL`: libraries that install their
    own handler only over the default one (Lightning, Ray) still do. `signal.signal` would turn it into a plain
    number, hence `_signal`.
    """

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global _to_raise
        if _to_raise is not None:
            error, _to_raise = _to_raise, None
            raise error
        for callback in reversed(_callbacks):
            callback()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _before_fork() -> None:
    # A signal that reaches a child before its handler is the default one would be lost: let it wait.
    _blocked.before = processes.hold(signal.SIGTERM)


def _after_fork_in_parent() -> None:
    processes.release(_blocked.before)


def _after_fork_in_child() -> None:
    if isinstance(_signal.getsignal(signal.SIGTERM), _Default):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    processes.release(_blocked.before)


def _watch() -> None:
    _signal.signal(signal.SIGTERM, _Default(signal.SIG_DFL))
    processes.on_fork(_before_fork, _after_fork_in_parent, _after_fork_in_child)


_to_raise: BaseException | None = None
_callbacks: list[Callable[[], None]] = []
_blocked = threading.local()
