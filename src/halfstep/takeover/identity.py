"""Objects of a program told apart by identity: those of its classes may be equal to others, or have no hash."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")
V = TypeVar("V")


class IdentityDict(MutableMapping[T, V]):
    """A mapping from objects, which it holds weakly, in the order in which they came."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[T], V]] = {}

    def __getitem__(self, key: T) -> V:
        return self._held[id(key)][1]

    def get(self, key: T, default: Any = None) -> Any:
        """As of every mapping; without an exception, which a miss would cost 2 us."""
        return self._held.get(id(key), (None, default))[1]

    def __setitem__(self, key: T, value: V) -> None:
        held, number = self._held, id(key)
        known = held.get(number)
        # When an object is gone another one may get its id.
        reference = known[0] if known else weakref.ref(key, lambda _: held.pop(number, None))
        held[number] = reference, value

    def __delitem__(self, key: T) -> None:
        del self._held[id(key)]

    def __contains__(self, key: object) -> bool:
        return id(key) in self._held

    def __iter__(self) -> Iterator[T]:
        keys = [reference() for reference, _ in list(self._held.values())]
        return iter([key for key in keys if key is not None])

    def __len__(self) -> int:
        return len(self._held)


class IdentitySet(Generic[T]):
    """Holds objects weakly, each once, in the order in which they came."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._held: IdentityDict[T, Any] = IdentityDict()
        self.update(items)

    def add(self, item: T) -> None:
        """Take it in."""
        self._held[item] = None

    def update(self, items: Iterable[T]) -> None:
        """Take all of them in."""
        for item in items:
            self.add(item)

    def clear(self) -> None:
        """Let all of them go."""
        self._held.clear()

    def __contains__(self, item: object) -> bool:
        return item in self._held

    def __iter__(self) -> Iterator[T]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)
