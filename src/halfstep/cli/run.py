"""``halfstep run``: one program, one precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from halfstep.cli.options import SETTINGS, STEPS, command_options, program_options
from halfstep.errors import UsageError
from halfstep.options import RunOptions
from halfstep.program import Target
from halfstep.program import run as run_program
from halfstep.session.session import Session
from halfstep.session.settings import AUTO, Settings


def _check_record(record: str | None, target: Target) -> None:
    """Check that the record, which replaces a file, replaces no other file than a record.

    Raises:
        UsageError: its name is empty, or names the program or another file that is no record.
    """
    if record == "":
        raise UsageError("--record was given no file; name one, or leave it out.")
    with suppress(OSError):
        if record and target.path and os.path.samefile(record, target.path):
            raise UsageError(f"--record {record} is the program itself; give another file.")
        if record and os.path.isfile(record) and not _is_record(record):
            raise UsageError(f"--record {record} exists and is no record of halfstep; give another file.")


def _is_record(path: str) -> bool:
    """Whether a file begins as a record does, or is empty."""
    with open(path, "rb") as file:
        begins = file.read(64).lstrip()
    return not begins or begins.startswith(b'{"event":')


@click.command(context_settings=SETTINGS, short_help="Run a program in a precision, exactly as python would.")
@click.option("--precision", default=AUTO, show_default=True, metavar="P", help="fp32, tf32, bf16, fp16, bf16-true, "
    "fp16-true, bf16-lean, bf16-sr or as-is, with options (fp16:loss_scale=1024, bf16:keep=*.norm); with --emulate "
    "also fp8, fp8-e4m3, fp8-e5m2, mxfp8, mxfp6, mxfp4, nvfp4; auto: bf16 where it is native, else fp16 where that is, "
    "else fp32.")  # fmt: skip
@click.option("--steps", type=STEPS, metavar="N", help="End the program after N optimizer steps.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="K",
    help="Shift every seed that the program sets by K.",
)
@click.option("--record", metavar="FILE", help="Write what happens to FILE, one JSON object per line.")
@command_options(RunOptions)
@click.option("--repeat", type=int, default=0, hidden=True)
@click.option("--watch", is_flag=True, hidden=True)
@click.option("--graphs", is_flag=True, hidden=True)
@program_options
def run(
    precision: str,
    steps: int | None,
    seed: int | None,
    record: str | None,
    repeat: int,
    watch: bool,
    graphs: bool,
    module: bool,
    program: str,
    args: tuple[str, ...],
    **options: Any,
) -> Callable[[], None]:
    """Run PROGRAM exactly as `python PROGRAM ARGS...`, in another precision.

    PROGRAM is a script, a directory or zip with a __main__.py, or with -m a module. Options of halfstep come before
    it; everything after it is the program's own. Its output and exit code are its own, too; halfstep's words go to
    stderr.
    """
    target = Target.parse(program, args, module=module)
    _check_record(record, target)
    command = (*(("-m",) if module else ()), program, *args)
    settings = Settings(
        precision, RunOptions(steps=steps, **options), seed, record, command, repeat, watch, graphs
    )
    session = Session(settings, end_program=True)

    def begin() -> None:
        session.begin()
        run_program(target)

    return begin
