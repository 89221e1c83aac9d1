"""Notes which recently written files a program reads: they show whether a trial goes on from an earlier one's."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import Any

#: files that were last written longer ago, in seconds, do not come from another trial
_DAY = 86_400.0

#: file systems keep times by a clock that is behind by up to this, in seconds
_TICK = 0.05

#: no more files are remembered
_MOST = 200

#: folders with code, or with files that any run would write again: they do not change a training
_CACHES = ("cache", "torchinductor", "triton", "site-packages")
_CODE = (".py", ".pyc", ".so", ".dylib", ".pyd", ".dll")
#: documents: PEFT, for one, reads the model card that it writes beside a checkpoint
_DOCUMENTS = (".md",)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ELSEWHERE = ("/proc/", "/sys/", "/dev/", sys.prefix + os.sep, _OURS + os.sep)


class FilesRead:
    """Remembers files that are opened to be read, and were written by somebody else within a day before.

    An audit hook of Python's sees them (PEP 578): :func:`open` and all that is built on it, ``torch.load`` among it.
    It cannot be taken away, so it is only for trials of a comparison.
    """

    def __init__(self) -> None:
        self._started = time.time()
        self._seen: dict[str, float] = {}
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and len(self._seen) < _MOST:
            path, flags = arguments[0], arguments[-1]
            reads = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC) == 0
            if reads and isinstance(path, str):
                self._look(path)

    def _look(self, path: str) -> None:
        if (
            path.startswith(_ELSEWHERE)
            or path.endswith((*_CODE, *_DOCUMENTS))
            or any(part in path.lower() for part in _CACHES)
        ):
            return
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return
        age = self._started - found.st_mtime
        if stat.S_ISREG(found.st_mode) and _TICK < age < _DAY:
            self._seen.setdefault(os.path.abspath(path), found.st_mtime)

    def told(self) -> list[dict[str, object]]:
        """The files, in the order in which they were first read: path, when written, and whether written since."""
        return [
            {"path": path, "modified": modified, "rewritten": _modified(path) > modified}
            for path, modified in self._seen.items()
        ]


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
