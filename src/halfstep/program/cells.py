"""The cells of a notebook: reading them, and naming their lines as a person does."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfstep.errors import UsageError
from halfstep.files import opened

SUFFIX = ".ipynb"

#: the file name that IPython gives the code of a cell, outside of a kernel
_FILE = re.compile(r"<ipython-input-(\d+)-\w+>")

#: the key in the metadata of a notebook that halfstep has written
_OURS = "halfstep"


@dataclass(frozen=True)
class Cell:
    """A code cell."""

    number: int  #: as a traceback shows it
    code: str  #: its text, with its magics


@dataclass(frozen=True)
class Notebook:
    """The part of a notebook that is run."""

    cells: tuple[Cell, ...]  #: the code cells that are not empty, in order
    folder: str = ""  #: whose modules the cells may import; empty for the notebook's own


def is_cell(file: str) -> bool:
    """Whether ``file``, of a code object, is a cell of the notebook that is run."""
    return _FILE.fullmatch(file) is not None


def cell_line(file: str, line: int) -> str:
    """``cell 3, line 2``: where a line of a cell is. Code cells are counted from 1, empty ones left out."""
    found = _FILE.fullmatch(file)
    assert found is not None
    return f"cell {found[1]}, line {line}"


def check(given: str, path: str) -> None:
    """Look at a notebook before it is run.

    Raises:
        UsageError: IPython is not there, the file is no notebook, or its kernel is not Python.
    """
    missing = [name for name in ("IPython", "nbformat") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"'{given}' is a notebook, which needs {' and '.join(missing)} to be run; pip install 'halfstep[notebook]'."
        )
    read(given, path)


def read(given: str, path: str) -> Notebook:
    """A notebook's code. Raises UsageError if the file is no notebook, or its kernel is not Python."""
    import nbformat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells without an id
            with opened(Path(path)) as file:  # only files: a pipe that nobody writes to has no end
                notebook = nbformat.reads(file.read().decode("utf-8"), as_version=4)
            nbformat.validate(notebook)
    except Exception:  # of JSON, of Unicode, of nbformat, and of Python for JSON of another shape
        raise UsageError(
            f"'{given}' is no notebook that nbformat can read; give one that Jupyter opens, or a script."
        ) from None
    metadata = notebook.metadata
    info = metadata.get("language_info", {})
    language = metadata.get("kernelspec", {}).get("language") or info.get("name", "python")
    if not isinstance(language, str) or language.lower() != "python":
        raise UsageError(
            f"'{given}' is a notebook in {str(language)[:80]}; halfstep runs notebooks in Python."
        )
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    numbers, folder = [_own(cell.metadata, "number") for cell in code], _own(metadata, "folder")
    if not isinstance(folder, str) or not all(type(number) is int and number > 0 for number in numbers):
        numbers, folder = list(range(1, len(code) + 1)), ""
    cells = zip(numbers, code, strict=True)
    return Notebook(tuple(Cell(number, cell.source) for number, cell in cells), folder)


def _own(metadata: Mapping[str, Any], name: str) -> Any:
    """A value that halfstep itself wrote into the metadata; None where there is none."""
    ours = metadata.get(_OURS)
    return ours.get(name) if isinstance(ours, Mapping) else None


def write(path: Path, cells: Sequence[Cell], folder: str) -> Path:
    """Write a notebook whose tracebacks show the numbers of ``cells``, and that imports modules from ``folder``."""
    import nbformat

    new = nbformat.v4
    code = [new.new_code_cell(cell.code, metadata={_OURS: {"number": cell.number}}) for cell in cells]
    nbformat.write(new.new_notebook(cells=code, metadata={_OURS: {"folder": folder}}), path)
    return path
