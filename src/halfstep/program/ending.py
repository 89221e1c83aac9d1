"""How a program ended; calls functions with that at the very end of the process."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from halfstep.processes import returned
from halfstep.program.cells import cell_line, is_cell
from halfstep.program.raised_at import RaisedAt
from halfstep.program.sigterm import before_sigterm
from halfstep.words.stderr import tell

ALLOCATOR_RAN_OUT = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
    "cublas_status_alloc_failed",
)  # fmt: skip
#: what Keras puts in the first line of a message, before what the error says
_KERAS_LEAD = "Exception encountered when calling"
#: what TensorFlow puts before the frames of a traced function; the error stands below them: `    TypeError: boom`
_TRACED = "in user code:"
_ERROR_BELOW = re.compile(r"^ +([\w.]+(?:Error|Exception): .*)$", re.MULTILINE)
OUT_OF_MEMORY_TYPES = {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"}


@dataclass(frozen=True)
class Ending:
    """How the program ended."""

    #: `"ok"` (it ran to its end, or `sys.exit(0)`), `"failed"` (an exception, or another exit code), `"interrupted"`
    #: (an uncaught KeyboardInterrupt), `"terminated"` (SIGTERM)
    status: Literal["ok", "failed", "interrupted", "terminated"]
    #: as `subprocess` gives it: minus the signal's number where one ended the program. None if the program was not run
    #: by `halfstep.program.run`, where a `sys.exit` cannot be seen
    exit_code: int | None
    reason: str = ""  #: one line, such as `RuntimeError: boom`; empty for `"ok"`
    exception: str | None = None  #: the qualified name of the uncaught exception's type
    out_of_memory: bool = False  #: an allocator ran out, the host's or the device's
    #: the line of the program that the exception came from
    raised_at: RaisedAt = field(default_factory=RaisedAt, compare=False, repr=False)

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        """The ending to which an uncaught exception leads."""
        if isinstance(error, SystemExit):
            return cls._of_exit(error.code)
        interrupted = type(error) is KeyboardInterrupt  # a subclass of it ends with exit code 1
        return cls(
            status="interrupted" if interrupted else "failed",
            exit_code=-signal.SIGINT if interrupted else 1,
            reason=_one_line(error),
            exception=_name(type(error)),
            out_of_memory=_ran_out_of_memory(error),
            raised_at=RaisedAt.of(error),
        )

    @classmethod
    def _of_exit(cls, code: object) -> Ending:
        if code is None:
            return cls("ok", 0)
        if not isinstance(code, int):
            return cls("failed", 1, _first_line(_text(code)))
        seen = returned(int(code))
        return cls("failed", seen, f"exit code {code}") if seen else cls("ok", 0)


OK = Ending("ok", 0)
TERMINATED = Ending("terminated", -signal.SIGTERM, "terminated by SIGTERM")


def at_end(callback: Callable[[Ending], None]) -> None:
    """Call `callback(ending)` once, when this process ends by itself, by an exception, Ctrl-C or SIGTERM.

    Call this before the program is run, in the main thread: exit handlers run last in, first out, so the
    program's own have run by then. Forked children do not call it. After `os._exit`, `abort` and SIGKILL it is
    not called, so a record must be usable without its last line. After SIGTERM the callback runs between any two
    instructions of the program, and the program's exit handlers do not run. A program that installs its own
    SIGTERM handler keeps it.

    An exception of the callback becomes one line on stderr; it changes no exit code.
    """
    end = _AtEnd(callback)
    atexit.register(end.at_exit)
    before_sigterm(end.at_sigterm)


def note(ending: Ending) -> None:
    """Remember how the program ended; the last call counts."""
    global _noted
    _noted = ending


_noted: Ending | None = None


def _ending_of_this_process() -> Ending:
    """What `run` noted; in a program that it did not run, the uncaught exception that python remembers."""
    if _noted is not None:
        return _noted
    error = getattr(sys, "last_value", None)
    return Ending.of(error) if error is not None else Ending("ok", None)


class _AtEnd:
    """One callback, and the process that it belongs to."""

    def __init__(self, callback: Callable[[Ending], None]) -> None:
        self._callback: Callable[[Ending], None] | None = callback
        self._pid = os.getpid()

    def at_exit(self) -> None:
        self._call(_ending_of_this_process())

    def at_sigterm(self) -> None:
        self._call(TERMINATED)

    def _call(self, ending: Ending) -> None:
        callback, self._callback = self._callback, None
        if callback is None or os.getpid() != self._pid:
            return
        try:
            callback(ending)
        except BaseException as error:
            with suppress(Exception):
                tell(f"the end of the run was not recorded: {_one_line(error)}")


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether this exception, or one that it was raised from, says that an allocator ran out."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        names = {cls.__name__ for cls in type(error).__mro__}
        if names & OUT_OF_MEMORY_TYPES:
            return True
        if "RuntimeError" in names and any(text in _text(error).lower() for text in ALLOCATOR_RAN_OUT):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def _one_line(error: BaseException) -> str:
    """`RuntimeError: boom`, as the last line of a traceback; a long message is cut to its first line.

    For an error without a message, where it was raised: `AssertionError at data.py:30`.
    """
    text = _first_line(_text(error))
    if text.startswith(_KERAS_LEAD):
        text = f"{text} {_first_line(_text(error).partition(chr(10))[2])}".strip()
    elif text == _TRACED and (below := _ERROR_BELOW.findall(_text(error))):
        return str(below[-1])
    if text:
        return f"{_name(type(error))}: {text}"
    return _name(type(error)) + (_place(error) if isinstance(error, Exception) else "")


def _place(error: Exception) -> str:
    """Where it was raised; nothing if it never was."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    return f" at {cell_line(file, line) if is_cell(file) else f'{os.path.basename(file)}:{line}'}"


def _text(error: object) -> str:
    try:
        return str(error)
    except BaseException:  # the program's own class may fail at this
        return "<exception str() failed>"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _name(kind: type) -> str:
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
