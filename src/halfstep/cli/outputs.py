"""Where a command writes: places are checked before anything is run, and written at its end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halfstep.codec import JsonObject
from halfstep.comparison.requirements import Term
from halfstep.diagnosis.loading import holds_comparison, place_in
from halfstep.errors import HalfstepError, Unsupported, UsageError
from halfstep.files import Locked, locked
from halfstep.options import StrPath
from halfstep.report.tracking import NotTracked, Target, track
from halfstep.words.safe_text import clean
from halfstep.words.stderr import tell

if TYPE_CHECKING:
    from rich.console import Console


def check_current_folder() -> None:
    """Raise UsageError where the current folder is gone: nothing can be found or written from there."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("The current folder is gone; change into one that is there.") from None


def new_folder(out: StrPath | None, program: str) -> Path:
    """The folder of the comparison: made, and checked to be writable before any training.

    Raises:
        UsageError: it cannot be written, or holds a comparison already.
    """
    if out == "":
        raise UsageError("--out was given no folder; name one, or leave it out.")
    if out is None:
        name = f"{Path(program).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        return _writable(_unused(Path("halfstep-out").absolute() / name))
    folder = Path(out).absolute()
    if holds_comparison(folder):
        raise UsageError(
            f"{os.fspath(out)!r} already holds a comparison; give --out a new folder, --resume it, or delete that one."
        )
    return _writable(folder)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock the folder for this process, until the context is left or the process ends, however it ends.

    Raises:
        UsageError: another halfstep holds it.
    """
    try:
        with locked(folder):
            yield
    except Locked:
        raise UsageError(
            f"Another halfstep is running in {str(folder)!r}; wait until it has ended, or give --out another folder."
        ) from None


def diagnosis_folder(out: StrPath | None, program: str, precision: str) -> Path:
    """The folder of a diagnosis, made and writable: ``out``, or a folder in it where ``out`` holds a comparison.

    Raises:
        UsageError: it cannot be written.
    """
    if out is None or not holds_comparison(Path(out)):
        return new_folder(out, program)
    return _writable(place_in(Path(out).absolute(), precision))


def _unused(folder: Path) -> Path:
    """Make the folder; a number is added to its name where another run began in the same second."""
    for place in (folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 1000))):
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(place, error) from None
        return place
    raise UsageError(f"{str(folder)!r} and 998 more of its name are there already; give --out a new folder.")


def _writable(folder: Path) -> Path:
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        probe = folder / "trials" / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Cannot write to the folder {str(folder)!r} ({error.strerror}); give --out a folder you may write."
    )


@dataclass(frozen=True)
class Done:
    """What a command found, and what it wrote."""

    found: JsonObject  #: the comparison or the diagnosis as JSON has it
    page: Path | HalfstepError  #: its page, or why the page could not be drawn or written
    unwritten: UsageError | None = None  #: why another file could not be written

    def check(self) -> None:
        """Raise UsageError where the page or another file could not be written."""
        for failed in (self.page, self.unwritten):
            if isinstance(failed, UsageError):
                raise failed


def page_or_reason(write: Callable[[], Path]) -> Path | HalfstepError:
    """The page that ``write`` draws, or why it cannot be drawn here or written."""
    try:
        return write()
    except HalfstepError as error:
        return error


def page_or_none(page: Path | HalfstepError) -> Path | None:
    """The page; where it cannot be drawn here, None, and a sentence on stderr."""
    if isinstance(page, Unsupported):
        tell(str(page))
    return page if isinstance(page, Path) else None


def json_path_of(json_file: StrPath | None, option: str = "--json") -> Path | None:
    """Where the file of an option goes: checked to be writable before any training.

    Raises:
        UsageError: it cannot be written.
    """
    if json_file == "":
        raise UsageError(f"{option} was given no file; name one, or - for stdout.")
    if json_file is None or json_file == "-":
        return None if json_file is None else Path("-")
    path = Path(json_file).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a"):
            pass
    except OSError as error:
        raise UsageError(
            f"Cannot write {os.fspath(json_file)!r} ({error.strerror}); give {option} a file you may write."
        ) from None
    return path


def print_required(comparison: JsonObject, terms: Sequence[Term], console: Console) -> None:
    """Print whether each requirement holds. Raises Unmet if one does not, or the data cannot tell."""
    from halfstep.report.loading import Comparison

    for sentence in Comparison(comparison, Path()).require(*terms):
        console.print(clean(sentence), markup=False, highlight=False, soft_wrap=True)


def print_tracked(targets: Sequence[Target], comparison: JsonObject, folder: Path, page: Path | None) -> None:
    """Write to the trackers, and say on stderr how to see it, or why one failed; everything else is written before."""
    for target in targets:
        name = target.tracker.name
        try:
            said = f"tracked in {name}; see it with {track(target, comparison, folder, page)}"
        except NotTracked as failed:
            said = str(failed)
        tell(clean(said))


def text_or_reason(text: Callable[[], str], path: Path | None, what: str, kept: Path) -> UsageError | None:
    """:func:`write_text`, after the trials have run: returns why the file could not be written.

    Args:
        text, path: as for :func:`write_text`.
        what: what the file would hold; the error says that ``kept`` has it.
        kept: a folder.

    Raises:
        OSError: nobody reads stdout any more.
    """
    try:
        write_text(text, path)
    except OSError as error:
        if str(path) == "-":
            raise
        return UsageError(
            f"Cannot write {str(path)!r} ({error.strerror}); {what} is in {str(kept)!r}, from where `halfstep report` "
            "writes it.",
            see=kept,
        )
    return None


def write_text(text: Callable[[], str], path: Path | None) -> None:
    """Write what ``text`` makes where :func:`json_path_of` said: nowhere, to stdout, or to a file."""
    if str(path) == "-":
        print(text())
    elif path is not None:
        path.write_text(text() + "\n", encoding="utf-8")
