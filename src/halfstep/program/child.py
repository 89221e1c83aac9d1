"""How halfstep starts itself anew: with this interpreter and its options, and nothing of the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

START = str(Path(__file__).with_name("start.py"))


def command(*arguments: str) -> list[str]:
    """The command line of `halfstep ARGUMENTS`; of a module of it with ``-m NAME``."""
    import subprocess  # here: a program that is only run has no need of it

    # The same options as this process has (-O, -W, -X, -P ...), as multiprocessing gives them to its children.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *options, START, *arguments]
