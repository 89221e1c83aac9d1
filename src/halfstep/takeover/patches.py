"""Replacing attributes of a framework, and putting them back. Imports no framework."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

#: a function or method of a framework
Method = Callable[..., Any]


def descendants(cls: type) -> list[type]:
    """Every subclass of ``cls`` that exists, and theirs."""
    children: list[type] = cls.__subclasses__()
    return [found for child in children for found in (child, *descendants(child))]


class Patches:
    """The places in a framework that a takeover has replaced, in order; :meth:`undo` restores them."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, bool]] = []

    def set(self, owner: Any, name: str, new: Any) -> None:
        """Put ``new`` at ``owner.name``, remembering what stood there (or that it was inherited)."""
        own = name in vars(owner)
        self._replaced.append((owner, name, vars(owner).get(name), own))
        setattr(owner, name, new)

    def wrap(self, owner: Any, name: str, make: Callable[[Method], Method]) -> None:
        """Replace the function ``owner.name`` by ``make(it)``, keeping its name, docstring and signature."""
        original = getattr(owner, name)
        self.set(owner, name, functools.wraps(original)(make(original)))

    def wrap_each(self, owner: Any, names: Iterable[str], make: Callable[[Method], Method]) -> None:
        """:meth:`wrap` those of ``names`` that ``owner`` has: no version of a framework has all of them."""
        for name in names:
            if hasattr(owner, name):
                self.wrap(owner, name, make)

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._replaced:
            owner, name, old, own = self._replaced.pop()
            if own:
                setattr(owner, name, old)
            else:
                delattr(owner, name)
