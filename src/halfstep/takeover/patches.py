"""Replacing attributes of a framework, and putting them back. Imports no framework."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from halfstep.program import on_import
from halfstep.program.uncaught import stands_around

#: a function or method of a framework
Method = Callable[..., Any]

#: packages that are taken over, whose own names are replaced one by one, and halfstep itself
_NOT_FOLLOWED = ("torch", "torchvision", "keras", "tensorflow", "jax", "halfstep")


def descendants(cls: type) -> list[type]:
    """Every subclass of ``cls`` that exists, and theirs."""
    children: list[type] = cls.__subclasses__()
    return [found for child in children for found in (child, *descendants(child))]


@dataclass(frozen=True, eq=False)
class _Replaced:
    """One place: ``new`` stands at ``owner.name``, and ``old`` did; ``own``: not inherited."""

    owner: Any
    name: str
    old: Any
    new: Any
    own: bool

    @property
    def place(self) -> str:
        home = getattr(self.owner, "__module__", "")
        name = getattr(self.owner, "__qualname__", getattr(self.owner, "__name__", type(self.owner).__name__))
        return ".".join(filter(None, (home, name, self.name)))


class Patches:
    """The places in a framework that a takeover has replaced, in order; :meth:`undo` restores them."""

    def __init__(self) -> None:
        self._replaced: list[_Replaced] = []
        self._settings: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, new: Any) -> None:
        """Put ``new`` at ``owner.name``, remembering what stood there (or that it was inherited)."""
        own = name in vars(owner)
        self._replaced.append(_Replaced(owner, name, vars(owner).get(name), new, own))
        setattr(owner, name, new)

    def on_undo(self, put_back: Callable[[], None]) -> None:
        """Let :meth:`undo` call ``put_back``: a setting was changed, and no attribute was replaced."""
        self._settings.append(put_back)

    def wrap(self, owner: Any, name: str, make: Callable[[Method], Method]) -> None:
        """Replace the function ``owner.name`` by ``make(it)``, keeping its name, docstring and signature."""
        original = getattr(owner, name)
        self.set(owner, name, functools.wraps(original)(stands_around(make(original))))

    def wrap_each(self, owner: Any, names: Iterable[str], make: Callable[[Method], Method]) -> None:
        """:meth:`wrap` those of ``names`` that ``owner`` has: no version of a framework has all of them."""
        for name in names:
            if hasattr(owner, name):
                self.wrap(owner, name, make)

    def when_imported(self, name: str, act: Callable[[ModuleType], None]) -> None:
        """Call ``act`` with a module when the program imports it, unless that comes after :meth:`undo`."""
        self.on_undo(on_import(name, act))

    def follow_imports(self) -> None:
        """Replace functions also where modules have imported them, as by ``from torch.autograd import grad``."""
        newest = {(id(r.owner), r.name): r.new for r in self._replaced}
        old = {id(r.old): newest[id(r.owner), r.name] for r in self._replaced if _is_function_of_module(r)}
        for module, name, new in _imported(old):
            self.set(module, name, new)

    def covered(self) -> list[str]:
        """The places where something else has been put over what was put there: undoing would lose it."""
        newest = {(id(r.owner), r.name): r for r in self._replaced}
        return [r.place for r in newest.values() if vars(r.owner).get(r.name) is not r.new]

    def undo(self) -> None:
        """Put everything back, last first; also where modules have imported what stood here meanwhile."""
        oldest: dict[tuple[int, str], Any] = {}
        for r in self._replaced:
            oldest.setdefault((id(r.owner), r.name), r.old)
        new = {id(r.new): oldest[id(r.owner), r.name] for r in self._replaced if _is_function_of_module(r)}
        kept_alive, self._replaced = self._replaced, []
        for r in reversed(kept_alive):
            if r.own:
                setattr(r.owner, r.name, r.old)
            else:
                delattr(r.owner, r.name)
        for module, name, old in _imported(new):
            setattr(module, name, old)
        while self._settings:
            self._settings.pop()()


def _is_function_of_module(replaced: _Replaced) -> bool:
    return isinstance(replaced.owner, ModuleType) and callable(replaced.old)


def _imported(instead: dict[int, Any]) -> Iterator[tuple[ModuleType, str, Any]]:
    """Names in modules of the program and of other libraries that stand for a key of ``instead``, an ``id``."""
    if not instead:
        return
    for key, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and key.partition(".")[0] not in _NOT_FOLLOWED:
            for name, value in list(vars(module).items()):
                if id(value) in instead and value is not instead[id(value)]:
                    yield module, name, instead[id(value)]
