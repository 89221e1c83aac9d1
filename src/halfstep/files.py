"""Files of halfstep's own: written whole or not at all, as JSON that any program reads."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

#: no file of halfstep's own is nested half as deeply
_DEEPEST = 50


def json_text(value: Any, **how: Any) -> str:
    """``value`` as JSON, written as ``json.dumps`` is told; null stands for every number that JSON has no word for."""
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(without_nan(value), allow_nan=False, **how)


def read_json(path: Path) -> Any:
    """What a JSON file holds, whoever wrote it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, no UTF-8, nested too deeply, or holds an integer of thousands of digits.
    """
    with opened(path) as file:
        return parsed(file.read().decode("utf-8"))


def opened(path: Path) -> BinaryIO:
    """A file that is there to be read, to its end: no pipe, which nobody may write to, and no device.

    Raises:
        OSError: it is none, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(kind) else "Not a file", str(path))
    return open(descriptor, "rb")


def parsed(text: str) -> Any:
    """What JSON text holds, whoever wrote it.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") < _DEEPEST:
        return value
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for part in level for item in _items(part)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def without_nan(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list | tuple) else value


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file so that a reader never sees half of it; one that was there, or a link, is replaced, not followed.

    Raises:
        OSError: the folder is gone, full or not ours to write.
    """
    partial = path.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
