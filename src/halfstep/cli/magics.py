"""``%load_ext halfstep``: compare and diagnose from within a notebook.

``%%halfstep compare [OPTIONS]`` above a cell, or ``%halfstep compare [OPTIONS]`` alone: the program is what this kernel
has run so far, and the cell. It is written as a notebook and run in other processes, so the kernel's variables do not
change.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from IPython.core.error import UsageError as MagicError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.display import display

from halfstep.cli import calls
from halfstep.cli.compare import compare as compare_command
from halfstep.cli.diagnose import diagnose as diagnose_command
from halfstep.cli.history import History
from halfstep.cli.options import given_options
from halfstep.cli.outputs import check_current_folder
from halfstep.errors import HalfstepError, UsageError
from halfstep.program.cells import Cell, write
from halfstep.report.loading import Comparison, Diagnosis
from halfstep.session.session import Session
from halfstep.trials.progress import Progress
from halfstep.words.safe_text import clean

#: seconds between two drawings of the line of progress
REDRAW = 0.2

_USAGE = "%halfstep compare [OPTIONS], or %halfstep diagnose [PRECISION] [OPTIONS]; with %% above a cell"

_COMMANDS: Mapping[str, tuple[click.Command, Callable[..., Comparison | Diagnosis]]] = {
    "compare": (compare_command, calls.compare),
    "diagnose": (diagnose_command, calls.diagnose),
}


@magics_class
class HalfstepMagics(Magics):
    """``%halfstep`` and ``%%halfstep``."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self._history = History(shell)

    def unload(self) -> None:
        """Stop listening to the kernel."""
        self._history.forget()

    @line_cell_magic
    def halfstep(self, line: str, cell: str | None = None) -> Comparison | Diagnosis | PassedOver:
        """Compare or diagnose what this kernel has run so far, and the cell.

        %%halfstep compare --precisions fp32,bf16 --steps 50
        %%halfstep compare --only-cell
        %halfstep diagnose fp16

        The options are those of `halfstep compare` and `halfstep diagnose`. --only-cell: the cell alone is the program.
        """
        if Session.current is not None and Session.current.of_command:
            # halfstep runs this notebook itself: its lines about halfstep are no part of the program.
            return self._passed_over()
        try:
            return self._run(_words(line), cell)
        except HalfstepError as error:
            raise MagicError(str(error)) from None
        except click.ClickException as error:
            raise MagicError(error.format_message()) from None

    def _passed_over(self) -> PassedOver:
        """The result for later cells, also in ``_``, ``Out[3]`` and ``_3``, which IPython sets in a kernel only.

        As in a kernel, ``_`` is not set once a cell has assigned to it.
        """
        result = PassedOver()
        hook, names, number = self._shell.displayhook, self._shell.user_ns, self._shell.execution_count
        if names.get("_") is hook._:
            names["_"] = vars(hook)["_"] = result
        names["_oh"][number] = names[f"_{number}"] = result
        return result

    def _run(self, words: list[str], cell: str | None) -> Comparison | Diagnosis:
        if not words or words[0] not in _COMMANDS:
            raise UsageError(f"%halfstep was given {' '.join(words) or 'nothing'!r}; write {_USAGE}.")
        what, *options = words
        only_cell = "--only-cell" in options
        options = [word for word in options if word != "--only-cell"]
        if what == "diagnose" and options and not options[0].startswith("-"):
            options.insert(0, "--precision")
        program = self._program(cell, only_cell)
        with tempfile.TemporaryDirectory(prefix="halfstep-") as folder:
            path = _written(Path(folder) / "notebook.ipynb", program)
            command, call = _COMMANDS[what]
            with command.make_context(what, [*options, "--", str(path)]) as context:
                given = {name: context.params[name] for name in given_options()}
            found = call(**given, progress=_progress(self._shell))
        found.data["program"]["command"] = ["%halfstep", *words]  # the notebook that was run is gone
        return found

    def _program(self, cell: str | None, only_cell: bool) -> list[Cell]:
        """The cells that are the program; prints a list of them. Raises UsageError if there is none."""
        own = [] if cell is None else [Cell(self._history.number, cell)]
        looked = [] if only_cell else self._history.looked()
        program = own if only_cell else [*self._history.program(looked), *own]
        if not program:
            raise UsageError(
                "There is no cell to run: write %%halfstep above one, or run the cells that train before %halfstep."
            )
        print(
            f"halfstep: the program is {'this cell' if only_cell else 'what follows'}, each in a separate process:"
        )
        for part in program:
            name = "this cell" if cell is not None and part is program[-1] else f"In [{part.number}]"
            first = next(row for row in part.code.splitlines() if row.strip())
            print(f"  {name:<10} {clean(first)[:80]}")
        if looked:
            numbers = ", ".join(f"In [{number}]" for number in looked)
            print(f"Left out, as they only look at what halfstep found: {numbers}")
        return program


def _words(line: str) -> list[str]:
    """The words of a magic's line. Raises UsageError if a quote is left open."""
    try:
        return shlex.split(line)
    except ValueError:
        raise UsageError(f"%halfstep was given {line!r}, in which a quote is left open; close it.") from None


def _written(path: Path, program: list[Cell]) -> Path:
    """Write the notebook that is run. Raises UsageError if it cannot be written, or there is no folder to run it in."""
    check_current_folder()
    try:
        return write(path, program, os.getcwd())
    except UnicodeEncodeError:
        raise UsageError(
            "A cell holds half a surrogate pair, which no file can hold; run it again without."
        ) from None


def _progress(shell: Any) -> bool | Callable[[Progress], None]:
    """In a kernel one line that is drawn again and again; in a terminal what the command shows."""
    return Line() if hasattr(shell, "kernel") else True


class Line:
    """The progress of the trials in one line of a notebook."""

    def __init__(self) -> None:
        self._shown = display(_Text("halfstep: starting"), display_id=True)
        self._begun = 0
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.what == "plan":
            return
        self._begun += progress.what == "begin"
        if progress.what == "step" and time.monotonic() < self._drawn + REDRAW:
            return
        self._drawn = time.monotonic()
        self._shown.update(_Text(self._said(progress)))

    def _said(self, progress: Progress) -> str:
        which = f"trial {self._begun} of {max(self._begun, progress.trials)}: {progress.trial}"
        if progress.what == "end":
            return f"{which}, {progress.status}{progress.words and f': {progress.words}'}"
        steps = f"step {progress.step}" + ("" if progress.steps is None else f" of {progress.steps}")
        loss = "" if progress.loss is None else f", loss {progress.loss:.4g}"
        return f"{which}, {steps}{loss}" if progress.step else f"{which}, starting"


class _Text:
    """A line of plain text, as a notebook displays it."""

    def __init__(self, text: str) -> None:
        self._text = clean(text)

    def __repr__(self) -> str:
        return self._text


class PassedOver:
    """The result of ``%halfstep`` where halfstep itself runs the notebook, in the place of a comparison or diagnosis.

    Cells that read it, as ``_.table()`` does, then do nothing: each attribute, item and call is this value again, and
    there is nothing to iterate over.
    """

    def __getattr__(self, name: str) -> PassedOver:
        if name.startswith("_"):  # what IPython and others ask of a value
            raise AttributeError(name)
        return self

    def __getitem__(self, key: object) -> PassedOver:
        return self

    def __call__(self, *given: object, **named: object) -> PassedOver:
        return self

    def __iter__(self) -> Iterator[PassedOver]:
        return iter(())

    def __repr__(self) -> str:
        return "passed over: halfstep is running this notebook"


_loaded: dict[InteractiveShell, HalfstepMagics] = {}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext halfstep``."""
    _loaded[shell] = HalfstepMagics(shell)
    shell.register_magics(_loaded[shell])


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext halfstep``."""
    if (magics := _loaded.pop(shell, None)) is not None:
        magics.unload()
