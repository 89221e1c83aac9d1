"""Runs a program in this process, exactly as `python` would.

Known differences, all that were found: `sys.orig_argv`; frames of halfstep lie below the program's first, seen by
code that walks the stack (`inspect.stack()`, `warnings.warn` from more than three levels beyond its top, logging from
any) and counted in the recursion limit (some 10 of 1000); `sys.modules` also has what halfstep imported; a script that
cannot be decoded fails in the words of `compile`.
"""

from __future__ import annotations

import importlib
import io
import sys
from contextlib import suppress
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType

from halfstep.program import cells, stack_bottom
from halfstep.program.ending import OK, Ending, note
from halfstep.program.startup import set_up
from halfstep.program.target import Target
from halfstep.program.uncaught import show_without_our_frames


def run(target: Target) -> None:
    """Run the program to its end, as `python` or `python -m` does: same `__main__`, path, argv and exit code.

    Call it once, as the last thing that the process does, in the main thread, and let what it raises reach the
    interpreter: no `except` around it (click's standalone mode is one), and not from within one, or exceptions
    of the program would show the other as their context.

    `__main__` stays the program's, so that exit handlers still find it. Uncaught exceptions are shown without
    halfstep's frames.

    Raises:
        SystemExit, or whatever else the program does not catch.
    """
    if target.kind == "notebook":
        from halfstep.program import notebook  # IPython, before the program's folder is looked in

        code = cells.read(target.given, target.path or "")
    main = set_up(target)
    try:
        if target.kind == "notebook":
            notebook.run_cells(target.path or "", code, target.args)
        elif target.kind == "file":
            _run_file(target.path or "", main)
        else:
            _run_module(target)
    except SystemExit as error:
        note(Ending.of(error) if target.kind != "notebook" else notebook.ending(error))
        raise
    except BaseException as error:
        note(Ending.of(error))
        show_without_our_frames(__file__, afterwards=lambda: _forget_file(target, main))
        raise
    note(OK)
    _forget_file(target, main)


def _run_file(path: str, main: ModuleType) -> None:
    compiled = path.endswith(".pyc")
    main.__loader__ = (SourcelessFileLoader if compiled else SourceFileLoader)("__main__", path)
    main.__file__ = path
    vars(main)["__cached__"] = None
    try:
        stack_bottom.call(exec, _read_compiled(path) if compiled else _compile(path), vars(main))
    finally:
        _flush()


def _run_module(target: Target) -> None:
    # The very function that the interpreter calls for -m, directories and zips, in all its versions. It fills
    # the `__main__` that is there; unlike runpy.run_module it restores nothing. Its frames are part of the
    # traceback under python too, and its messages ("No module named x") are the interpreter's.
    runpy = importlib.import_module("runpy")
    if target.kind == "module":
        stack_bottom.call(runpy._run_module_as_main, target.given)
    else:
        stack_bottom.call(runpy._run_module_as_main, "__main__", False)


def _compile(path: str) -> CodeType:
    with io.open_code(path) as file:
        source = file.read()
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _read_compiled(path: str) -> CodeType:
    code = SourcelessFileLoader("__main__", path).get_code("__main__")
    assert code is not None
    return code


def _flush() -> None:
    """The interpreter does this between a script's last line and the traceback or the exit handlers."""
    for stream in (sys.stderr, sys.stdout):
        with suppress(Exception):
            stream.flush()


def _forget_file(target: Target, main: ModuleType) -> None:
    """The interpreter takes these from a script's `__main__` before exit handlers run, unless it called sys.exit."""
    if target.kind == "file":
        vars(main).pop("__file__", None)
        vars(main).pop("__cached__", None)
