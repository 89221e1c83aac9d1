"""How halfstep starts itself in a new process: with this interpreter and its options, importing nothing from the
current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

START = str(Path(__file__).with_name("start.py"))


def command(*arguments: str) -> list[str]:
    """The command line of `halfstep ARGUMENTS`; ``-m NAME`` runs a module of halfstep."""
    import subprocess  # here: a program that is only run has no need of it

    # The same options as this process has (-O, -W, -X, -P ...), as multiprocessing gives them to its children.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *options, START, *arguments]
