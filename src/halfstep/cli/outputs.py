"""Where a command writes: found to be writable before anything is run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halfstep.codec import JsonObject
from halfstep.comparison.requirements import Term
from halfstep.diagnosis.loading import holds_comparison, place_in
from halfstep.errors import HalfstepError, Unsupported, UsageError
from halfstep.files import Locked, json_text, locked
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
    """The folder of the comparison, made and found to be writable before any training.

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
    """Lock the folder for this process, until the block is left or the process ends, however it ends.

    Args:
        folder: where records are to be written.

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
    """The folder of a diagnosis, made and found to be writable: ``out``, or a place in it where it is a comparison's.

    Raises:
        UsageError: it cannot be written.
    """
    if out is None or not holds_comparison(Path(out)):
        return new_folder(out, program)
    return _writable(place_in(Path(out).absolute(), precision))


def _unused(folder: Path) -> Path:
    """The folder, which this call makes; a number follows its name where another began in the same second."""
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


def page_or_reason(write: Callable[[], Path]) -> Path | HalfstepError:
    """The page that ``write`` draws, or why it cannot be drawn here or written: all else goes on."""
    try:
        return write()
    except HalfstepError as error:
        return error


def page_or_said(page: Path | HalfstepError) -> Path | None:
    """The page; where it cannot be drawn here a sentence on stderr, and None."""
    if isinstance(page, Unsupported):
        tell(str(page))
    return page if isinstance(page, Path) else None


def page_or_none(write: Callable[[], Path]) -> Path | None:
    """The page that ``write`` draws; where it cannot be drawn here a sentence on stderr, and None.

    Raises:
        UsageError: it cannot be written.
    """
    page = page_or_reason(write)
    if isinstance(page, UsageError):
        raise page
    return page_or_said(page)


def json_path_of(json_file: StrPath | None, option: str = "--json") -> Path | None:
    """Where the file of an option goes, found to be writable before any training.

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
    """Print whether what was required holds.

    Raises:
        Unmet: something does not, or the data cannot tell.
    """
    from halfstep.report.loading import Comparison

    for sentence in Comparison(comparison, Path()).require(*terms):
        console.print(clean(sentence), markup=False, highlight=False, soft_wrap=True)


def print_tracked(targets: Sequence[Target], comparison: JsonObject, folder: Path, page: Path | None) -> None:
    """Write to the trackers, and say on stderr how to see it, or why one failed: all else is written by then."""
    for target in targets:
        name = target.tracker.name
        try:
            said = f"tracked in {name}; see it with {track(target, comparison, folder, page)}"
        except NotTracked as failed:
            said = str(failed)
        tell(clean(said))


def text_or_reason(text: Callable[[], str], path: Path | None, what: str, kept: Path) -> UsageError | None:
    """Write a text where :func:`json_path_of` said, or return why it could not be: the trials have run, so all goes on.

    Args:
        text: what makes it.
        path: where it goes; None for nowhere.
        what: what is there without the file, as the subject of a clause that ends the sentence.
        kept: the folder in which it is.

    Raises:
        OSError: nobody reads stdout any more.
    """
    if path is None:
        return None
    try:
        write_text(text(), path)
    except OSError as error:
        if str(path) == "-":
            raise
        return UsageError(
            f"Cannot write {str(path)!r} ({error.strerror}); {what} is in {str(kept)!r}, from where `halfstep report` "
            "writes it.",
            see=kept,
        )
    return None


def write_json(data: JsonObject, path: Path | None) -> None:
    """Write ``data`` where :func:`json_path_of` said: nowhere, to stdout, or to a file."""
    if path is None:
        return
    write_text(json_text(data, indent=1), path)


def write_text(text: str, path: Path) -> None:
    """Write a text where :func:`json_path_of` said: to stdout, or to a file."""
    if str(path) == "-":
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")
