"""Calls functions right after the program itself has imported a framework; imports none.

A framework read too early ignores what the script sets up first (`OMP_NUM_THREADS`, `CUDA_VISIBLE_DEVICES`),
so halfstep waits until the program imports it.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]


def on_import(name: str, callback: Callback) -> Callable[[], None]:
    """Call `callback(module)` once, when the import of the module `name` has been executed to its end.

    This works for every importer and thread. If an import fails, a later one that works counts. An exception of
    the callback comes out of the program's `import` statement. If the module is imported already, the callback is
    called at once. Built-in and frozen modules are not seen.

    Returns:
        A function that takes the callback back.

    Raises:
        RuntimeError: the module is being imported at this moment, by the caller or by another thread.
    """
    module = sys.modules.get(name)
    if module is None:
        _WATCH.add(name, callback)
    elif getattr(getattr(module, "__spec__", None), "_initializing", False):
        raise RuntimeError(f"{name} is half imported: call on_import before its import, or after it.")
    else:
        callback(module)
    return functools.partial(_WATCH.remove, name, callback)


class _Watch:
    """A finder that asks the other finders, and wraps ``exec_module`` of the loader that they found."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, callback: Callback) -> None:
        with self._lock:
            self._callbacks.setdefault(name, []).append(callback)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)

    def remove(self, name: str, callback: Callback) -> None:
        with self._lock:
            left = [other for other in self._callbacks.get(name, []) if other is not callback]
            if left:
                self._callbacks[name] = left
            else:
                self._callbacks.pop(name, None)
                self._leave_if_done()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._callbacks:
            return None
        spec = self._ask_the_others(name, path, target)
        # Set on the instance, so that the loader is the real one in every other respect: its type, get_data,
        # get_resource_reader. A caller that only searches (importlib.util.find_spec) sees no difference.
        if spec is not None and hasattr(spec.loader, "__dict__") and not isinstance(spec.loader, type):
            vars(spec.loader)["exec_module"] = functools.partial(_exec_module, self, spec.loader, name)
        return spec

    def _ask_the_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else finders:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                return spec
        return None

    def seen(self, name: str) -> None:
        """Call the callbacks of a module, once; leave `sys.meta_path` when no callback is left."""
        with self._lock:
            callbacks = self._callbacks.pop(name, [])
            self._leave_if_done()
        with _as_plain_module(sys.modules[name]) as module:
            for callback in callbacks:
                callback(module)

    def _leave_if_done(self) -> None:
        if not self._callbacks:
            # A new list: another thread may be walking the old one, and would skip a finder.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]


@contextmanager
def _as_plain_module(module: ModuleType) -> Iterator[ModuleType]:
    """The module, as a plain one within this context: a lazy loader gives a module a class that loads it on first use.

    That class may ignore the module's own ``__getattr__``, which NumPy and PyTorch use to import their parts.
    """
    lazy = type(module)
    if not issubclass(lazy, ModuleType) or lazy.__getattribute__ is ModuleType.__getattribute__:
        yield module
        return
    object.__setattr__(module, "__class__", ModuleType)
    try:
        yield module
    finally:
        object.__setattr__(module, "__class__", lazy)


def _exec_module(watch: _Watch, loader: Any, name: str, module: ModuleType) -> None:
    vars(loader).pop("exec_module", None)
    loader.exec_module(module)
    if module.__name__ == name:
        watch.seen(name)


# The interpreter leaves frames of its import machinery out of tracebacks, and `warnings` passes over them when
# it counts `stacklevel`. This one stands among them, so it gets their file name, and is left out, too.
_exec_module.__code__ = _exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")

_WATCH = _Watch()
