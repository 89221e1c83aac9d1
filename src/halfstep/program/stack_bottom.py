"""Frames below the program's first frame that look like the end of the stack, where ``warnings`` names ``sys``.

``warnings.warn(stacklevel=2)`` at the top of a script counts beyond the end of the stack. halfstep's frames cannot be
removed, but frames that look like that end can be put between them and the program's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

#: how many levels beyond the program's first frame are hidden; each counts in the recursion limit
DEPTH = 3

# The place that `warnings` names when the stack has ended.
_FILE, _LINE = ("<sys>", 0) if sys.version_info >= (3, 13) else ("sys", 1)
_SOURCE = "lambda us, more, function, *args: us(us, more - 1, function, *args) if more else function(*args)"


def call(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, called from frames with the name, the line and the globals of the stack's end."""
    return _as_the_end(_as_the_end, DEPTH - 1, function, *args)


def is_beneath(frame: FrameType) -> bool:
    """Whether this is one of the frames of :func:`call`."""
    return frame.f_code is _as_the_end.__code__


def _compile() -> CodeType:
    code = next(c for c in compile(_SOURCE, _FILE, "eval").co_consts if isinstance(c, CodeType))
    return code.replace(co_firstlineno=_LINE, co_name="start")


# A function and not `exec`, which would leave `__builtins__` in the globals.
_as_the_end = FunctionType(_compile(), vars(sys))
