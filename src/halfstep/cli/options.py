"""The options and arguments of the commands, made from the fields of the values that hold them."""

from __future__ import annotations

import inspect
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click
from click.core import ParameterSource

from halfstep.errors import UsageError
from halfstep.options import MOST_STEPS, RunOptions
from halfstep.passed_on import Keywords
from halfstep.processes import split_words
from halfstep.program.target import Target


def program_options(command: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """The arguments that name a program; halfstep's options end there, so the program gets its own ``--precision``."""
    command = click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")(command)
    command = click.argument("program", type=click.UNPROCESSED, required=required)(command)
    return click.option("-m", "module", is_flag=True, help="PROGRAM is a module's name, as for `python -m`.")(
        command
    )


def check_program(target: Target) -> None:
    """Raise UsageError where the program can be read only once, as it is a pipe or a device such as ``<(command)``."""
    if target.path is not None and not (os.path.isfile(target.path) or os.path.isdir(target.path)):
        raise UsageError(
            f"{target.given!r} is no file, and can be read only once; write it into a file, and name that."
        )


def check_launcher(launch: str, there: bool = False) -> None:
    """Look for the launcher's program before anything is run; with ``there`` it is on another machine.

    Raises:
        UsageError: it is not found, or the quotes of ``launch`` do not match.
    """
    try:
        words = split_words(launch)
    except ValueError as error:
        raise UsageError(f"--launch is {launch!r} ({error}); close its quotes.") from None
    if launch and not words:
        raise UsageError("--launch was given nothing to launch with; give it a command, or leave it out.")
    if words and not there and shutil.which(words[0]) is None:
        raise UsageError(
            f"There is no program '{words[0]}' to launch with; give --launch one on PATH, or its whole path."
        )


class _Seconds(click.FloatRange):
    """A duration: click's range lets ``nan`` and ``inf`` pass."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        seconds: float = super().convert(value, param, context)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, context)
        return seconds


SECONDS = _Seconds(min=0, min_open=True)

#: how many optimizer steps
STEPS = click.IntRange(1, MOST_STEPS)

SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


def command_options(kind: type[RunOptions]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for each field of ``kind`` that has a help text: its own fields first, then inherited ones."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        known = {f.name: f for f in fields(kind) if f.metadata}
        own = [name for name in inspect.get_annotations(kind) if name in known]
        for name in reversed(list(dict.fromkeys([*own, *known]))):
            command = _option(known[name])(command)
        return command

    return decorated


def given_options() -> set[str]:
    """The names of the options and arguments that stand on the command line."""
    context = click.get_current_context()
    return {
        name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def _option(option: Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind, default = option.metadata["kind"], option.default
    shape: Keywords = {"metavar": option.metadata["metavar"]}
    if default is False:
        shape["is_flag"] = True
    elif kind == "texts":
        shape["multiple"] = True
    elif kind == "seconds":
        shape["type"] = SECONDS
    elif isinstance(kind, range):
        shape["type"] = click.IntRange(kind.start, kind.stop - 1)
    elif isinstance(kind, tuple):
        shape["type"] = click.Choice(kind)
    if default or default == "":
        shape |= {"default": default, "show_default": bool(default)}
    if default == "":
        shape["callback"] = _not_empty
    name = f"--{option.name.replace('_', '-')}"
    return click.option(name, option.name, **shape, help=option.metadata["help"])


def _not_empty(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse an option that was given an empty value, as ``--launch "$UNSET"`` gives one."""
    if not value and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
        raise UsageError(
            f"{parameter.opts[0]} was given nothing; give it {parameter.make_metavar(context)}, or leave it out."
        )
    return value
