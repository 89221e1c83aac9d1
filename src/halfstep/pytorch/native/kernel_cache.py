"""Where compiled kernels are kept: files that nobody else can write, each with its digest beside it.

What is loaded runs as the user, and a library that was cut short ends the process by SIGBUS. So only what belongs to
this user, what no group and no other may write, and what still has the digest that it was kept with, is loaded.
"""

from __future__ import annotations

import hashlib
import stat
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

from halfstep.files import forbids_loading, is_private, write_whole

#: seconds for which a compiler that failed is not tried again: it, or what it lacked, may have been mended since
EXPIRES = 86_400.0


class Unusable(Exception):
    """There is nowhere to keep kernels; the message is the reason, as the end of a sentence."""


def folder() -> Path:
    """The folder, made where it is missing.

    Raises:
        Unusable: it cannot be made, or others can write it.
    """
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
    """Whether the library is there as it was kept, and may be loaded."""
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
        OSError: the disk is full, say.
    """
    library.chmod(0o700)
    write_whole(_digest_of(library), _digest(library), mode=0o600)


def _digest_of(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def note_failure(library: Path, compiler: str) -> None:
    """This compiler cannot build it: it is not to be tried again in every process."""
    with suppress(OSError):
        write_whole(_failed(library), compiler, mode=0o600)


def has_failed(library: Path, compiler: str) -> bool:
    """Whether this very compiler has failed at it not long ago."""
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
