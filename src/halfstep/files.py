"""Files of halfstep's own: written whole or not at all, as JSON that any program reads.

With :mod:`halfstep.processes` the only module that asks which platform this is.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

#: no file of halfstep's own is nested half as deeply
_DEEPEST = 50
#: what JSON text has beside its brackets, once it has no escapes
_NO_BRACKET = re.compile(r'"[^"]*"|[^][{}"]+')
_ESCAPE = re.compile(r"\\.")

#: as `json.loads` has it, which takes twice as long for a line of a record
_DECODER = json.JSONDecoder()
#: the white space of JSON
_BLANK = " \t\n\r"


def json_text(value: Any, **how: Any) -> str:
    """``value`` as JSON; null stands for every number that JSON has no word for. ``how`` is for ``json.dumps``."""
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
    """A file that can be read to its end: no device, and no pipe, as nobody may ever write to it.

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
    text = text.strip(_BLANK)
    try:
        value, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text):
        raise ValueError(f"more than one value: {text[end : end + 20]!r} comes after the first")
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        raise ValueError("nested too deeply")
    return value


def _depth(text: str) -> int:
    """How deeply arrays and objects are nested in JSON text."""
    brackets = _NO_BRACKET.sub("", _ESCAPE.sub("", text))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


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


class Locked(Exception):
    """Somebody else holds the lock."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, until the block is left or the process ends, however it ends.

    The lock is the system's, on a file in the folder. Where the file system has no locks nothing is held.

    Raises:
        Locked: another holds it.
    """
    import filelock  # here, as a program that is only run does not need it

    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Locked from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()


if sys.platform == "win32":

    def out_of_reach(descriptor: int) -> int:
        """No program closes descriptors that are not its own."""
        return descriptor

    def is_own(found: os.stat_result) -> bool:
        """Python cannot read who owns a file here; the rights of a user's folders keep others out."""
        return True

    def is_private(found: os.stat_result) -> bool:
        """As :func:`is_own`."""
        return True

    def forbids_loading(folder: Path) -> bool:
        """No file system does."""
        return False

    def link_folder(link: Path, target: Path) -> None:
        """Make ``link`` lead to a folder: a junction, as links need a right that users seldom have.

        Raises:
            OSError: the file system has none.
        """
        import _winapi

        _winapi.CreateJunction(str(target), str(link))

else:
    #: programs close descriptors up to some hundreds when they become daemons
    _HIGH = 900

    def out_of_reach(descriptor: int) -> int:
        """The same file under a number that no loop over the lowest ones closes; where there is none, as it is."""
        with suppress(OSError):
            import fcntl

            high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
            os.close(descriptor)
            return high
        return descriptor

    def is_own(found: os.stat_result) -> bool:
        """Whether a file belongs to the user whose rights this process has."""
        return found.st_uid == os.geteuid()

    def is_private(found: os.stat_result) -> bool:
        """Whether a file is this user's, and no group and nobody else may write it."""
        return is_own(found) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def forbids_loading(folder: Path) -> bool:
        """Whether no library in a folder can be loaded, as its file system is mounted ``noexec``.

        Raises:
            OSError: the folder cannot be looked at.
        """
        return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))

    def link_folder(link: Path, target: Path) -> None:
        """Make ``link`` lead to a folder. Raises OSError if the file system has no links."""
        link.symlink_to(target, target_is_directory=True)
