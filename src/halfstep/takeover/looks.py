"""What only looks at a program may fail by itself: it is then absent, with the reason, and the program goes on.

Each look has a name, which is what the record will lack. Its entry points run through :meth:`Looks.run`; the program's
own code never does, so an exception of the program's is never caught here.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from halfstep.errors import HalfstepError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: the attribute in which an object with looks of its own has its :class:`Looks`
ATTRIBUTE = "_looks"

#: the looks that every framework has
LOSSES, SECONDS, METERS = "losses", "seconds per step", "peak memory and energy"


class Looks:
    """The looks of one takeover."""

    def __init__(self, write: Callable[..., None]) -> None:
        self._write = write
        self._failures: dict[str, int] = {}
        self._off: dict[str, str] = {}

    def absent(self, look: str) -> str:
        """Why ``look`` was given up; empty where it was not."""
        return self._off.get(look, "")

    def run(
        self, look: str, tries: int, function: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> Result | None:
        """``function(*args, **kwargs)``, or None where it fails or the look has been given up.

        Args:
            tries: after so many failures it is given up.

        Raises:
            HalfstepError: one of halfstep's own, which is meant to end the program.
        """
        if look in self._off:
            return None
        try:
            return function(*args, **kwargs)
        except HalfstepError:
            raise
        except Exception as error:  # of any kind: the program must not notice it
            self._failed(look, tries, error)
            return None

    def _failed(self, look: str, tries: int, error: Exception) -> None:
        self._failures[look] = self._failures.get(look, 0) + 1
        if self._failures[look] == 1:
            self._write("absent", look=look, reason=reason(error), given_up=tries == 1)
        if self._failures[look] >= tries:
            self._off[look] = reason(error)


def reason(error: Exception) -> str:
    """The error in one line, with the place in halfstep's own code: ``TypeError: … (sample.py:74)``."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "halfstep" in Path(frame.filename).parts and frame.filename != __file__
    ]
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}{place}" if first else f"{type(error).__name__}{place}"


def look(
    name: str, tries: int = 1
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result | None]]:
    """A method that is a look of its object's, which has a :class:`Looks` in ``_looks``."""

    def decorate(method: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
        @functools.wraps(method)
        def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
            looks: Looks = getattr(args[0], ATTRIBUTE)
            return looks.run(name, tries, method, *args, **kwargs)

        return guarded

    return decorate
