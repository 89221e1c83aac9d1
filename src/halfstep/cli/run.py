"""``halfstep run``: one program, one precision."""

from __future__ import annotations

import math
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any

import click

from halfstep.errors import UsageError
from halfstep.options import MOST_STEPS, RunOptions
from halfstep.program import Target
from halfstep.program import run as run_program
from halfstep.session import AUTO, Session, Settings


def program_options(command: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """The arguments that name a program: ours end at it, so that its own ``--precision`` reaches it."""
    command = click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")(command)
    command = click.argument("program", type=click.UNPROCESSED, required=required)(command)
    return click.option("-m", "module", is_flag=True, help="PROGRAM is a module's name, as for `python -m`.")(
        command
    )


def check_program(target: Target) -> None:
    """Look at a program that is to run several times before anything is run.

    Raises:
        UsageError: it is a pipe or a device, as ``<(command)`` is, and can be read only once.
    """
    if target.path is not None and not (os.path.isfile(target.path) or os.path.isdir(target.path)):
        raise UsageError(
            f"{target.given!r} is no file, and can be read only once; write it into a file, and name that."
        )


def check_launcher(launch: str) -> None:
    """Look for the program of ``--launch`` before anything is run.

    Raises:
        UsageError: it is not there, or the quotes of ``launch`` do not match.
    """
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise UsageError(f"--launch is {launch!r} ({error}); close its quotes.") from None
    if launch and not words:
        raise UsageError("--launch was given nothing to launch with; give it a command, or leave it out.")
    if words and shutil.which(words[0]) is None:
        raise UsageError(
            f"There is no program '{words[0]}' to launch with; give --launch one on PATH, or its whole path."
        )


def _check_record(record: str | None, target: Target) -> None:
    """The record replaces the file that it is written to.

    Raises:
        UsageError: that is the program, or it has no name.
    """
    if record == "":
        raise UsageError("--record was given no file; name one, or leave it out.")
    with suppress(OSError):
        if record and target.path and os.path.samefile(record, target.path):
            raise UsageError(f"--record {record} is the program itself; give another file.")


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


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every run but ``--steps``; the command is given them by name."""
    for option in reversed([f for f in fields(RunOptions) if f.metadata]):
        flag, choices = option.default is False, option.metadata["choices"]
        shape: dict[str, Any] = {"is_flag": True} if flag else {"type": click.Choice(choices)}
        told = {"default": option.default, "show_default": True} if option.default else {}
        name = f"--{option.name.replace('_', '-')}"
        command = click.option(name, **shape, **told, help=option.metadata["help"])(command)
    return command


@click.command(context_settings=SETTINGS, short_help="Run a program in a precision, exactly as python would.")
@click.option("--precision", default=AUTO, show_default=True, metavar="P", help="fp32, tf32, bf16, fp16, bf16-true, "
    "fp16-true or as-is, with options (fp16:loss_scale=1024, bf16:keep=*.norm); with --emulate also fp8, fp8-e4m3, "
    "fp8-e5m2, mxfp8, mxfp6, mxfp4, nvfp4; auto: bf16 where it is native, else fp16 where that is, "
    "else fp32.")  # fmt: skip
@click.option("--steps", type=STEPS, metavar="N", help="End the program after N optimizer steps.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="K",
    help="Shift every seed that the program sets by K.",
)
@click.option("--record", metavar="FILE", help="Write what happens to FILE, one JSON object a line.")
@run_options
@click.option("--repeat", type=int, default=0, hidden=True)
@click.option("--watch", is_flag=True, hidden=True)
@program_options
def run(
    precision: str,
    steps: int | None,
    seed: int | None,
    record: str | None,
    repeat: int,
    watch: bool,
    module: bool,
    program: str,
    arguments: tuple[str, ...],
    **options: Any,
) -> Callable[[], None]:
    """Run PROGRAM exactly as `python PROGRAM ARGS...`, in another precision.

    PROGRAM is a script, a directory or zip with a __main__.py, or with -m a module. Options of halfstep come before
    it; everything after it is the program's own. Its output and exit code are its own, too; halfstep's words go to
    stderr.
    """
    target = Target.parse(program, arguments, module=module)
    _check_record(record, target)
    command = (*(("-m",) if module else ()), program, *arguments)
    settings = Settings(precision, RunOptions(steps, **options), seed, record, command, repeat, watch)
    session = Session(settings, end_program=True)

    def begin() -> None:
        session.begin()
        run_program(target)

    return begin
