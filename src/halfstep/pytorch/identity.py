"""Sets of a program's objects by identity: objects of its classes may be equal to others, or have no hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")


class IdentitySet(Generic[T]):
    """Holds objects weakly, each once, in the order in which they came."""

    def __init__(self) -> None:
        self._held = WeakIdKeyDictionary()

    def add(self, item: T) -> None:
        """Take it in."""
        self._held[item] = None

    def update(self, items: Iterable[T]) -> None:
        """Take all of them in."""
        for item in items:
            self.add(item)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._held))

    def __len__(self) -> int:
        return len(self._held)
