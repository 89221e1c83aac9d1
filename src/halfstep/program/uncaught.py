"""How an uncaught exception is shown: as if halfstep were not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from halfstep.program.ending import Ending, note
from halfstep.program.stack_bottom import is_beneath

Hook = Callable[[type[BaseException], BaseException, "TracebackType | None"], Any]


def show_without_our_frames(file: str, afterwards: Callable[[], None]) -> None:
    """Wrap `sys.excepthook`, for the one exception that is on its way out of the program.

    Whatever hook the program has set is the one that shows it, and is back in place when it does. Frames up to
    the innermost one of our `file` are left out. `afterwards` is called when the exception was shown.
    """
    hook: Hook = getattr(sys, "excepthook", sys.__excepthook__)

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.excepthook = hook
        traceback = _beyond(file, traceback)
        sys.last_traceback = traceback
        _call(hook, kind, error.with_traceback(traceback), traceback)
        afterwards()

    sys.excepthook = show


def _call(
    hook: Hook, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Call a hook as the interpreter calls it: one that fails is shown, and then the exception that it had."""
    try:
        hook(kind, error, traceback)
    except SystemExit as leaving:
        note(Ending.of(leaving))
        raise
    except BaseException as failure:
        beyond = failure.__traceback__.tb_next if failure.__traceback__ else None
        _print("Error in sys.excepthook:")
        sys.__excepthook__(type(failure), failure.with_traceback(beyond), beyond)
        _print("\nOriginal exception was:")
        sys.__excepthook__(kind, error, traceback)


def _print(text: str) -> None:
    if sys.stderr is not None:  # print would take stdout in its place
        print(text, file=sys.stderr)


def _beyond(file: str, traceback: TracebackType | None) -> TracebackType | None:
    """The part of `traceback` inside the innermost frame of `file` and those that it puts beneath the program.

    All of it if there is no such frame.
    """
    beyond = entry = traceback
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == file or is_beneath(entry.tb_frame):
            beyond = entry.tb_next
        entry = entry.tb_next
    return beyond
