"""How an uncaught exception is shown: as if halfstep were not there."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

from halfstep.program.ending import Ending, note
from halfstep.program.stack_bottom import is_beneath

Hook = Callable[[type[BaseException], BaseException, "TracebackType | None"], Any]
Function = TypeVar("Function", bound=Callable[..., Any])

#: the code of functions that wrap others; all functions made by one ``def`` share their code
_AROUND: set[CodeType] = set()


def stands_around(function: Function) -> Function:
    """Mark a function of halfstep that replaces another one and calls it: tracebacks leave its frame out."""
    if (code := getattr(function, "__code__", None)) is not None:
        _AROUND.add(code)
    return function


def show_without_our_frames(file: str, afterwards: Callable[[], None]) -> None:
    """Wrap `sys.excepthook`, for the one exception that is on its way out of the program.

    Whatever hook the program has set is the one that shows it, and is back in place when it does. Frames up to
    the innermost one of our `file` are left out, and those of our wrappers of a framework's functions. `afterwards`
    is called when the exception was shown.
    """
    hook: Hook = getattr(sys, "excepthook", sys.__excepthook__)

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.excepthook = hook
        for other in _others(error):
            other.__traceback__ = _without_wrappers(other.__traceback__)
        traceback = _without_wrappers(_beyond(file, traceback))
        sys.last_traceback = traceback
        _call(hook, kind, error.with_traceback(traceback), traceback)
        afterwards()

    sys.excepthook = show


def _call(
    hook: Hook, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Call a hook as the interpreter calls it: if the hook fails, show its exception and then the program's."""
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
    """The part of `traceback` inside the innermost frame of `file`, or of those that it puts below the program's.

    The whole traceback if there is no such frame.
    """
    beyond = entry = traceback
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == file or is_beneath(entry.tb_frame):
            beyond = entry.tb_next
        entry = entry.tb_next
    return beyond


def _others(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that are shown together with `error`: causes, contexts, and the members of a group."""
    seen, found = {id(error)}, [error]
    while found:
        at = found.pop()
        for other in (at.__cause__, at.__context__, *getattr(at, "exceptions", ())):
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                found.append(other)
                yield other


def _without_wrappers(traceback: TracebackType | None) -> TracebackType | None:
    """The frames that there would be without halfstep.

    Where halfstep itself raised the exception its frames are the innermost ones, and stay. A wrapper of a builtin
    function, which has no frame in Python, is innermost too, and is left out.
    """
    entries = []
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    theirs = [index for index, entry in enumerate(entries) if not _is_ours(entry.tb_frame)]
    if not theirs:
        return entries[0] if entries else None
    innermost = entries[theirs[-1] + 1 :]
    if innermost and _was_called_around(innermost[-1]):
        innermost = []
    kept = [*(entries[index] for index in theirs), *innermost]
    for entry, following in zip(kept, [*kept[1:], None], strict=True):
        entry.tb_next = following
    return kept[0]


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("halfstep.")


def _was_called_around(entry: TracebackType) -> bool:
    """Whether this is a wrapper that did not raise the exception itself."""
    code = entry.tb_frame.f_code
    return code in _AROUND and opcode.opname[code.co_code[entry.tb_lasti]] != "RAISE_VARARGS"
