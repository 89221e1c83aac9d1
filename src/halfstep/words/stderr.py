"""halfstep's own words on stderr; where it is closed, full, or no longer read, they are dropped."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import IO, cast

from halfstep.words.safe_text import clean


def tell(text: str) -> None:
    """Write a sentence of halfstep's own, safe to show."""
    if sys.stderr is not None:  # print would take stdout in its place
        with suppress(OSError, ValueError):
            print(f"halfstep: {clean(text, lines=True)}", file=sys.stderr)


def console_file() -> IO[str]:
    """stderr for a console that shows the progress of trials: no trial ends because stderr cannot be written."""
    return cast(IO[str], _Stderr())


class _Stderr(io.TextIOBase):
    def __init__(self) -> None:
        self._file = sys.stderr

    def write(self, text: str) -> int:
        """Write what can be written; all of it counts as written."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file is not None and self._file.isatty()

    def fileno(self) -> int:
        """Its descriptor. Raises OSError if it has none."""
        return -1 if self._file is None else self._file.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of its text: a console draws lines with the characters that it has."""
        return getattr(self._file, "encoding", None) or "utf-8"
