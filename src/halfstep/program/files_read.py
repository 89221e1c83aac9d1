"""Notes which recently written files a program reads: they show whether a trial continues from an earlier trial."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import Any

#: files that were last written longer ago, in seconds, do not come from another trial
_DAY = 86_400.0

#: the clock that file systems take their times from may be behind by this, in seconds
_TICK = 0.05

#: how many files are remembered at most
_MOST = 200

#: folders with code, or with files that any run would write again: reading them does not change a training
_CACHES = ("cache", "torchinductor", "triton", "site-packages")
_CODE = (".py", ".pyc", ".so", ".dylib", ".pyd", ".dll")
#: documents: PEFT, for example, reads the model card that it writes beside a checkpoint
_DOCUMENTS = (".md",)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ELSEWHERE = ("/proc/", "/sys/", "/dev/", sys.prefix + os.sep, _OURS + os.sep)


class FilesRead:
    """Remembers files that the program reads, and that were written in the last day before it started.

    A Python audit hook sees them (PEP 578): :func:`open` and everything built on it, such as ``torch.load``. The hook
    cannot be removed, so only trials of a comparison use it.
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

    def files(self) -> list[dict[str, object]]:
        """The files in the order of their first reading: path, time of writing, and whether it was written since."""
        return [
            {"path": path, "modified": modified, "rewritten": _modified(path) > modified}
            for path, modified in self._seen.items()
        ]


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
