"""What the interpreter sets up before a program's first line: argv, path, an empty `__main__`."""

from __future__ import annotations

import builtins
import os
import sys
from types import ModuleType

from halfstep.program.target import Target, path_entry_finder

# In every interpreter before a program starts, so that a file of that name beside the script is not seen.
# (Built-in modules come before `sys.path` anyway.) And halfstep, which the program may import as well.
KEPT = {
    *("abc", "codecs", "encodings", "genericpath", "io", "ntpath", "os", "posixpath", "site", "stat", "zipimport"),
    *("_collections_abc", "_sitebuiltins", "sitecustomize", "usercustomize", "importlib", "runpy"),
    *("__main__", "halfstep"),
}  # fmt: skip

# At its end the interpreter deletes names from the `__main__` it began with, to which it holds no reference: it assumes
# that `sys.modules` or a traceback has one. Ours is in neither if an exception is shown without our frames.
_OUTLIVING: list[ModuleType] = []


def set_up(target: Target) -> ModuleType:
    """Make argv, `sys.path[0]` and `__main__` those of the program; return the new `__main__`."""
    sys.argv[:] = target.argv
    first = _replace_first_path(target)
    if first is not None:
        forget_what_lies_in(first)
    return _fresh_main()


def _replace_first_path(target: Target) -> str | None:
    """Put the program's directory in place of what the interpreter put there for halfstep."""
    safe = getattr(sys.flags, "safe_path", sys.flags.isolated)  # -P, -I: nothing was put there; 3.11
    if target.kind in ("directory", "zip"):
        first = target.path
    elif safe:
        return None
    elif target.kind in ("file", "notebook"):
        first = os.path.dirname(os.path.realpath(target.path or ""))
    else:
        first = _working_directory()
    sys.path[: 0 if safe else 1] = [first] if first is not None else []
    return first


def _working_directory() -> str | None:
    """None if it was deleted: the interpreter then puts nothing in the path."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def forget_what_lies_in(directory: str) -> None:
    """Forget modules that halfstep has loaded where the program's directory has its own of that name.

    Without halfstep, a `random.py` beside the script is what the script's `import random` finds.
    """
    finder = path_entry_finder(directory)
    if finder is None:
        return
    loaded = {name.partition(".")[0] for name in sys.modules}
    loaded -= KEPT | set(sys.builtin_module_names)
    specs = {name: finder.find_spec(name) for name in loaded}
    hidden = {name for name, spec in specs.items() if spec is not None and spec.loader is not None}
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]


def _fresh_main() -> ModuleType:
    """An empty `__main__`, with the names that this version's interpreter gives it, in its order."""
    old, main = sys.modules["__main__"], ModuleType("__main__")
    _OUTLIVING.append(old)
    if "__annotations__" in vars(old):
        vars(main)["__annotations__"] = {}
    vars(main)["__builtins__"] = builtins
    sys.modules["__main__"] = main
    return main
