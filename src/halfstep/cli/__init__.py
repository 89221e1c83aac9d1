"""The command line: one file per command, each loaded only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

from halfstep.errors import HalfstepError
from halfstep.words.stderr import tell

_COMMANDS = {
    "run": "halfstep.cli.run",
    "compare": "halfstep.cli.compare",
    "diagnose": "halfstep.cli.diagnose",
    "report": "halfstep.cli.report",
    "formats": "halfstep.cli.formats",
    "info": "halfstep.cli.info",
}


class _Commands(click.Group):
    """Finds a command by its name, without importing the others."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[name]), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="halfstep", prog_name="halfstep")
def halfstep() -> None:
    """Run any training script in any numerical precision, unmodified; compare the precisions on it."""


def main() -> None:
    """The entry point. Mistakes of the user get one sentence on stderr and exit code 2."""
    begin = _parse()
    if callable(begin):
        # `run` returns a function: the program runs outside of click, which would change its exceptions.
        begin()


def _parse() -> Callable[[], None] | int | None:
    try:
        result: Callable[[], None] | int | None = halfstep.main(standalone_mode=False, prog_name="halfstep")
        if not callable(result) and sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except HalfstepError as error:
        _exit(error)
    except BrokenPipeError:
        _forget_stdout()
        sys.exit(1)  # the reader of stdout has ended
    except OSError as error:
        _forget_stdout()
        _exit(HalfstepError(f"{error.filename or 'The output'} cannot be used: {error.strerror}."))
    if isinstance(result, int) and not isinstance(result, bool):
        sys.exit(result)
    return result


def _exit(error: HalfstepError) -> NoReturn:
    tell(str(error))
    sys.exit(error.exit_code)


def _forget_stdout() -> None:
    """Drop what is not written yet: the interpreter would try to write it at its end, and fail again."""
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
