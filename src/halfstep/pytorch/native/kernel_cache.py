"""Keeps compiled kernels in files that nobody else can write, each with its digest beside it.

A loaded library runs with the user's rights, and a truncated library ends the process by SIGBUS. So a library is loaded
only if it belongs to this user, if no group and nobody else may write it, and if its digest is that of when it was
kept.
"""

from __future__ import annotations

import hashlib
import stat
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

from halfstep.files import forbids_loading, is_private, write_whole

#: seconds before a compiler that failed is tried again: the user may have mended it, or installed what it lacked
EXPIRES = 86_400.0


class Unusable(Exception):
    """There is nowhere to keep kernels; the message is the reason, as the end of a sentence."""


def folder() -> Path:
    """The folder, made if it is missing. Raises Unusable if it cannot be made, or others can write it."""
    try:
        place = platformdirs.user_cache_path("halfstep", appauthor=False)
    except RuntimeError:
        place = Path("~")
    if not place.is_absolute():  # what begins with ~ was not found
        raise Unusable("there is no home directory to keep them in; set HOME or XDG_CACHE_HOME")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not place.is_dir() or not is_private(place.stat()):
            raise Unusable(f"{str(place)!r} belongs to another user, or others may write it")
        if forbids_loading(place):
            raise Unusable(f"{str(place)!r} is on a file system that is mounted noexec")
    except OSError as error:
        raise Unusable(f"{str(place)!r} cannot be used: {error.strerror}") from None
    return place


def is_whole(library: Path) -> bool:
    """Whether the library is unchanged and may be loaded."""
    try:
        trusted = all(
            stat.S_ISREG((found := file.lstat()).st_mode) and is_private(found)
            for file in (library, _digest_of(library))
        )
        return trusted and _digest_of(library).read_text() == _digest(library)
    except (OSError, ValueError):
        return False


def seal(library: Path) -> None:
    """Keep the library that was just put there.

    Raises:
        OSError: for example, the disk is full.
    """
    library.chmod(0o700)
    write_whole(_digest_of(library), _digest(library), mode=0o600)


def _digest_of(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def note_failure(library: Path, compiler: str) -> None:
    """Note that this compiler cannot build it, so that not every process tries again."""
    with suppress(OSError):
        write_whole(_failed(library), compiler, mode=0o600)


def has_failed(library: Path, compiler: str) -> bool:
    """Whether this compiler has failed to build it not long ago."""
    try:
        found = _failed(library).lstat()
        recent = (
            stat.S_ISREG(found.st_mode) and is_private(found) and 0 <= time.time() - found.st_mtime < EXPIRES
        )
        return recent and _failed(library).read_text() == compiler
    except (OSError, ValueError):
        return False


def _failed(library: Path) -> Path:
    return library.with_suffix(".failed")
