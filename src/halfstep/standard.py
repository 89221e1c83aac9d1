"""Modules of the standard library that are imported late, when the program's own folder is on the path."""

from __future__ import annotations

import functools
import importlib.util
import os
from importlib.machinery import BuiltinImporter, PathFinder
from types import ModuleType

_FOLDER = os.path.dirname(os.__file__)


@functools.cache
def standard(name: str) -> ModuleType:
    """The standard library's own module, whatever lies beside the program; the program may import another of its name.

    Raises:
        ImportError: this system has none.
    """
    folders = [_FOLDER, os.path.join(_FOLDER, "lib-dynload")]
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
