"""``halfstep.compare`` and ``halfstep.diagnose``: the commands as functions.

Their keywords are the fields of the commands' options. They are turned into a command line, which the command reads, so
that both take the same values and refuse others in the same sentences.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from halfstep.cli import compare as comparing
from halfstep.cli import diagnose as diagnosing
from halfstep.cli.options import given_options
from halfstep.cli.outputs import Done, held
from halfstep.comparison.options import ComparisonOptions
from halfstep.comparison.work import Display
from halfstep.diagnosis.options import DiagnosisOptions
from halfstep.errors import HalfstepError, Unsupported, UsageError
from halfstep.passed_on import Keywords
from halfstep.processes import join_words
from halfstep.report.loading import Comparison, Diagnosis
from halfstep.report.tracking import NotTracked, track
from halfstep.trials.process import MARK
from halfstep.trials.progress import Announcer, CallOptions
from halfstep.words.stderr import console_file

P = ParamSpec("P")
Options = TypeVar("Options", bound=CallOptions)
Value = TypeVar("Value", Comparison, Diagnosis)

#: fields that are no options of the command line
_NO_OPTIONS = ("program", "args", "module", "progress")


def _with_keywords_of(
    options: Callable[P, Options],
) -> Callable[[Callable[[Keywords], Value]], Callable[P, Value]]:
    """Turn a function that takes a dictionary into one that takes the fields of ``options`` as keywords."""

    def decorated(call: Callable[[Keywords], Value]) -> Callable[P, Value]:
        signature = inspect.signature(options)

        @functools.wraps(call)
        def called(*args: P.args, **kwargs: P.kwargs) -> Value:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                allowed = ", ".join(signature.parameters)
                raise UsageError(f"halfstep.{call.__name__}(): {error}; allowed are {allowed}.") from None
            return call(given)

        shown = signature.replace(return_annotation=inspect.signature(call).return_annotation)
        called.__signature__ = shown  # type: ignore[attr-defined]
        return called

    return decorated


@_with_keywords_of(ComparisonOptions)
def compare(given: Keywords) -> Comparison:
    """Run a program in several precisions, one process each, and compare speed, memory and loss.

    The keywords are the options of ``halfstep compare``, with its defaults; a list with commas may be a Python list.
    Nothing is printed, and only the program itself writes outside of ``out``.

    Args:
        program: the script; with ``module=True`` a module's name. None where ``resume`` names a comparison.
        args: the program's own arguments, e.g. ``["--lr", "3e-4"]``.
        out: folder for records, logs and the page. Default: a temporary one, removed with the returned value.
        progress: True shows it on stderr, as the command does; a function is called with each
            :class:`~halfstep.trials.progress.Progress`, and ends the trials by raising an exception.

    Returns:
        What :func:`halfstep.load` reads from ``out``. A trial that failed is a row of it, as on the command line.
        Ctrl-C, which only the main thread gets, ends the comparison with the trials so far.

    Raises:
        HalfstepError: the command refuses the options, with the same message.
        Unmet: what ``require`` names does not hold (``exit_code`` 1), or the data cannot tell (3).

    Example:
        >>> import halfstep
        >>> halfstep.compare("train.py", precisions=["fp32", "bf16"], seeds=5)  # doctest: +SKIP
    """
    with _folder(given) as (complete, keep):
        options, names = _read(comparing.compare, ComparisonOptions, complete)
        task = comparing.prepare(options, names)
        _require_lasting_places(given, task)
        with held(task.request.folder), _display(given.get("progress", False)) as display:
            done = comparing.perform(task, display)
        _track(task, done)
        _check(done)
        found = Comparison(done.found, task.request.folder)
        found.require(*task.required)
        return keep(found)


@_with_keywords_of(DiagnosisOptions)
def diagnose(given: Keywords) -> Diagnosis:
    """Train a program for some steps in a precision, look at every number, and name what goes wrong.

    The keywords are the options of ``halfstep diagnose``, with its defaults. Nothing is printed, and only the program
    itself writes outside of ``out``.

    Args:
        program: the script; with ``module=True`` a module's name.
        args: the program's own arguments, e.g. ``["--lr", "3e-4"]``.
        out: folder for records, logs and the page; in a comparison's folder the diagnosis becomes a section of its
            page. Default: a temporary one, removed with the returned value.
        progress: as for :func:`halfstep.compare`.

    Returns:
        What ``halfstep.load(out, "diagnosis")`` reads.

    Raises:
        HalfstepError: the command refuses the options, with the same message, or the program makes no step.

    Example:
        >>> import halfstep
        >>> halfstep.diagnose("train.py", precision="fp16", steps=20)  # doctest: +SKIP
    """
    with _folder(given) as (complete, keep):
        options, _ = _read(diagnosing.diagnose, DiagnosisOptions, complete)
        task = diagnosing.prepare(options)
        with held(task.question.job.folder), _display(given.get("progress", False)) as display:
            done = diagnosing.perform(task, display)
        _check(done)
        return keep(Diagnosis(done.found, task.question.job.folder))


def _require_lasting_places(given: Mapping[str, Any], task: comparing.Task) -> None:
    """Raise UsageError where a tracker would write into a temporary folder, which goes with the returned value."""
    if given.get("out") is not None or given.get("resume") is not None:
        return
    for target in task.targets:
        if target.is_inside(task.request.folder):
            name = target.tracker.name
            raise UsageError(
                f"track names {name}, which would write into a temporary folder; give out=DIR, or {name}=DIR."
            )


def _track(task: comparing.Task, done: Done) -> None:
    """Write to the trackers; one that fails is a warning."""
    page = done.page if isinstance(done.page, Path) else None
    for target in task.targets:
        try:
            track(target, done.found, task.request.folder, page)
        except NotTracked as failed:
            warnings.warn(str(failed), RuntimeWarning, stacklevel=4)


def _check(done: Done) -> None:
    """Warn where the page cannot be drawn here; raise UsageError where a file could not be written."""
    if isinstance(done.page, Unsupported):
        warnings.warn(str(done.page), RuntimeWarning, stacklevel=4)
    done.check()


@contextmanager
def _folder(given: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Callable[[Value], Value]]]:
    """``given`` with a folder for ``out``, and a function that ties a temporary folder to the returned value.

    A temporary folder is kept after an error whose message names a file in it.

    Raises:
        UsageError: this process is itself a trial, which would start trials without end.
    """
    if MARK in os.environ:
        raise UsageError(
            "A trial of a comparison or a diagnosis was about to start another one; do that only where "
            "HALFSTEP_TRIAL is not in the environment, or from another file."
        )
    if given.get("out") is not None or given.get("resume") is not None:
        yield given, lambda value: value
        return
    folder = tempfile.mkdtemp(prefix="halfstep-")

    def keep(value: Value) -> Value:
        weakref.finalize(value, shutil.rmtree, folder, ignore_errors=True)
        return value

    try:
        yield {**given, "out": folder}, keep
    except BaseException as error:
        if not (isinstance(error, HalfstepError) and error.see is not None):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _display(progress: Any) -> Iterator[Display]:
    """Where progress goes: to stderr, to a function, or nowhere.

    Raises:
        UsageError: ``progress`` is none of them.
    """
    if progress is True:
        from rich.console import Console

        from halfstep.report.progress import Progress

        with Progress(Console(file=console_file())) as shown:
            yield shown
    elif progress is None or progress is False or callable(progress):
        yield Announcer(progress or None)
    else:
        raise UsageError(f"progress was given {progress!r}; give True, False or a function.")


def _read(
    command: click.Command, kind: type[Options], given: Mapping[str, Any]
) -> tuple[Options, frozenset[str]]:
    """The options as the command reads them, and the names of those that were given.

    Raises:
        UsageError: the command refuses one.
    """
    try:
        with command.make_context(command.name, _command_line(kind, given)) as context:
            return kind(**context.params), frozenset(given_options())
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None


def _command_line(kind: type[Options], given: Mapping[str, Any]) -> list[str]:
    words = [
        word
        for f in fields(kind)
        if f.name in given
        for value in _each(given[f.name], several=f.metadata.get("kind") == "texts")
        for word in _option(f.name, value, f.default)
    ]
    words += ["-m"] if _flag("module", given.get("module", False)) else []
    program, args = given.get("program"), given.get("args", ())
    if not _is_list(args) or not all(isinstance(word, str | os.PathLike) for word in args):
        raise UsageError(f'args was given {args!r}; give a list of texts, e.g. ["--lr", "3e-4"].')
    if program is None and args:
        raise UsageError(f"args was given {args!r} without a program; name one.")
    return [
        *words,
        "--",
        *([] if program is None else [_text("program", program)]),
        *(_text("args", word) for word in args),
    ]


def _each(value: Any, several: bool) -> Sequence[Any]:
    """The values of an option that may be given several times."""
    return value if several and _is_list(value) else [value]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _option(name: str, value: Any, default: Any) -> list[str]:
    """The words of a command line that give an option this value; none for None, which is the default."""
    option = f"--{name.replace('_', '-')}"
    if name in _NO_OPTIONS or value is None:
        return []
    if default is False:
        return [option] if _flag(name, value) else []
    if _is_list(value):
        texts = [_text(name, item) for item in value]
        return [f"{option}={join_words(texts) if name == 'launch' else ','.join(texts)}"]
    return [f"{option}={_text(name, value)}"]


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} was given {value!r}; give True or False.")
    return value


def _text(name: str, value: Any) -> str:
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(plain, bool) or not isinstance(plain, str | int | float):
        raise UsageError(f"{name} was given {value!r}; give a text, a number or a path, as for its option.")
    with suppress(UnicodeEncodeError):
        if b"\0" not in os.fsencode(str(plain)):
            return str(plain)
    raise UsageError(
        f"{name} was given {value!r}; no command line can hold a null byte or half a surrogate pair."
    )
