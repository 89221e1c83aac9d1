"""What to run: a file, a module, a directory or a zip, and its arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from halfstep.errors import UsageError
from halfstep.program import cells

if TYPE_CHECKING:
    from _typeshed.importlib import PathEntryFinderProtocol


@dataclass(frozen=True)
class Target:
    """A program as the user named it."""

    #: `"file"`, `"notebook"`, `"module"` (`python -m`), `"directory"` or `"zip"` (both hold a `__main__.py`)
    kind: Literal["file", "notebook", "module", "directory", "zip"]
    given: str  #: the path or the module's name, as typed
    path: str | None  #: the absolute path, spelled as the interpreter spells `__file__`; None for a module
    args: tuple[str, ...]  #: the program's own arguments

    @classmethod
    def parse(cls, program: str, args: Sequence[str], *, module: bool) -> Target:
        """Recognise what `program` is, as `python program` or, with `module`, `python -m program` would.

        A module is looked up only when it is run: one that is not there ends as under `python -m`.

        Raises:
            UsageError: there is no such file, it cannot be read, a directory or zip has no `__main__.py`, or a notebook
                cannot be run.
        """
        if module:
            return cls("module", program, None, tuple(args))
        path = absolute(program)
        finder = path_entry_finder(path)
        if finder is None:
            _check_file(program, path)
            if path.endswith(cells.SUFFIX):
                cells.check(program, path)
                return cls("notebook", program, path, tuple(args))
            return cls("file", program, path, tuple(args))
        if finder.find_spec("__main__") is None:
            raise UsageError(
                f"'{program}' has no __main__.py, so it cannot be run; name a script, "
                "or a directory or zip with a __main__.py in it."
            )
        return cls("directory" if os.path.isdir(path) else "zip", program, path, tuple(args))

    @property
    def argv(self) -> tuple[str, ...]:
        """`sys.argv` as the interpreter first sets it; for a module `-m` stands where the path will be."""
        return ("-m" if self.kind == "module" else self.given, *self.args)


def absolute(path: str) -> str:
    """The absolute path spelled as the interpreter does: `./`, `..` and `//` kept."""
    if os.name == "nt":
        return os.path.abspath(path)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def path_entry_finder(path: str) -> PathEntryFinderProtocol | None:
    """What finds modules in `path`, if it is a directory or a zip: the interpreter's own test for one."""
    if path not in sys.path_importer_cache:
        sys.path_importer_cache[path] = _first_finder(path)
    return sys.path_importer_cache[path]


def _first_finder(path: str) -> PathEntryFinderProtocol | None:
    for hook in sys.path_hooks:
        with suppress(ImportError):
            return hook(path)
    return None


def _check_file(given: str, path: str) -> None:
    if not os.path.exists(path):
        raise UsageError(
            f"There is no file '{given}' in {os.getcwd()}; "
            "give the path of a script, or -m and the name of a module."
            if not os.path.isabs(given)
            else f"There is no file '{given}'; give the path of a script, or -m and the name of a module."
        )
    if not os.access(path, os.R_OK):
        raise UsageError(f"'{given}' cannot be read; give a script that you have permission to read.")
