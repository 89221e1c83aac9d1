"""Runs a notebook in this process: its code cells, in order, by IPython itself.

As with ``ipython notebook.ipynb``, magics, ``!commands``, top-level ``await`` and ``display`` work, the user's profile
and startup files are read, ``__main__`` has what the cells define, and the first cell that raises ends the program.
Unlike there, the exit code then is not 0, a traceback names the cell by its number, and no history is written.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Any

from IPython.core.interactiveshell import ExecutionResult
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from IPython.terminal.ipapp import TerminalIPythonApp

from halfstep.program.cells import Notebook
from halfstep.program.ending import Ending


class _Shell(TerminalInteractiveShell):
    """Shows no traceback of a cell that ends the program, by ``sys.exit`` or because it has made enough steps."""

    def showtraceback(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(sys.exc_info()[1], SystemExit):
            super().showtraceback(*args, **kwargs)


def run_cells(path: str, notebook: Notebook, arguments: tuple[str, ...]) -> None:
    """Run the cells of the notebook at ``path`` to their end.

    Raises:
        SystemExit: a cell raised something; its traceback was shown.
    """
    shell = _shell()
    warnings.filterwarnings("ignore", "To exit: use 'exit'")  # IPython's advice after a sys.exit
    sys.argv[:] = [path, *arguments]
    shell.user_ns["__file__"] = path
    if notebook.folder:
        sys.path[0] = notebook.folder
    for cell in notebook.cells:
        shell.execution_count = cell.number  # tracebacks show it
        result: ExecutionResult = shell.run_cell(cell.code, silent=True, shell_futures=True)  # type: ignore[no-untyped-call]
        _flush()
        if (error := result.error_before_exec or result.error_in_exec) is not None:
            raise error if isinstance(error, SystemExit) else _CellFailed(Ending.of(error))


def _shell() -> _Shell:
    """IPython's shell, as its own program sets it up; the terminal's prompt is never shown."""
    app = TerminalIPythonApp.instance(interactive_shell_class=_Shell)
    hook = sys.excepthook
    app.initialize(["--HistoryManager.enabled=False", "--no-banner", "--quiet"])
    sys.excepthook = hook  # IPython's own would ask the user to report an error of IPython
    assert isinstance(app.shell, _Shell)
    return app.shell


class _CellFailed(SystemExit):
    """A cell raised something, which was shown."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(130 if ending.status == "interrupted" else 1)
        self.ending = ending


def ending(error: SystemExit) -> Ending:
    """How the program ended, from the ``error`` that ended it."""
    return error.ending if isinstance(error, _CellFailed) else Ending.of(error)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
