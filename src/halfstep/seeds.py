"""``--seed K``: the same program with other random numbers, reproducibly.

Every seed that the script sets is shifted by K: ``random.seed``, ``numpy.random.seed``, ``default_rng``,
``RandomState``, ``torch.manual_seed``, its device spellings and ``torch.Generator``. What the script leaves
unseeded is seeded with K, so that two precisions can be compared on the same initial weights and batches.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.program import on_import


def shift_seeds(k: int) -> None:
    """Seed the standard library, NumPy and PyTorch with ``k``, and shift what the script sets by ``k``.

    A ``random.Random(7)`` that the script makes for itself keeps its own seed.
    """
    shift = _Shift(k)
    random.seed(k)
    shift.function(random, "seed")
    on_import("numpy", functools.partial(_numpy, shift))
    on_import("torch", functools.partial(_torch, shift))


def _numpy(shift: _Shift, numpy: ModuleType) -> None:
    numpy.random.seed(shift.k)
    for name in ("seed", "default_rng"):
        shift.function(numpy.random, name)
    shift.method(numpy.random, "RandomState", "__init__")


def _torch(shift: _Shift, torch: ModuleType) -> None:
    torch.manual_seed(shift.k)
    shift.function(torch, "manual_seed")
    for name in ("manual_seed", "manual_seed_all"):
        shift.function(torch.cuda, name)
    shift.method(torch, "Generator", "manual_seed")


class _Shift:
    """Wraps seeding functions so that an integer seed arrives as ``seed + k``, once however they call each other."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._inside = False

    def function(self, owner: Any, name: str) -> None:
        """Replace ``owner.name`` by one that shifts."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def shifted(*args: Any, **kwargs: Any) -> Any:
            return self._call(original, args, kwargs)

        setattr(owner, name, shifted)

    def method(self, owner: Any, name: str, method: str) -> None:
        """Replace the class ``owner.name`` by a subclass whose ``method`` shifts; the base's instances are its own."""
        base = getattr(owner, name)

        class OneOfBoth(type(base)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, base)

        def shifted(instance: Any, *args: Any, **kwargs: Any) -> Any:
            return self._call(functools.partial(getattr(base, method), instance), args, kwargs)

        setattr(owner, name, OneOfBoth(name, (base,), {method: shifted, "__module__": base.__module__}))

    def _call(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside:
            return original(*args, **kwargs)
        self._inside = True
        try:
            return original(*self._args(args, kwargs), **{n: self._plus(v) for n, v in kwargs.items()})
        finally:
            self._inside = False

    def _args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if args and args[0] is not None:
            return (self._plus(args[0]), *args[1:])
        # No seed means: from the operating system's entropy. Here: reproducibly.
        return () if kwargs else (self.k,)

    def _plus(self, seed: Any) -> Any:
        return seed + self.k if isinstance(seed, int) and not isinstance(seed, bool) else seed
