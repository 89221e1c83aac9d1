"""``--seed K``: the same program with other random numbers, reproducibly.

Every seed that the script sets is shifted by K: those of ``random``, NumPy, PyTorch, TensorFlow, Keras and JAX, of
global functions and of generator objects alike. What the script leaves unseeded is seeded with K, so that two
precisions can be compared on the same initial weights and batches.
"""

from __future__ import annotations

import copyreg
import functools
import operator
import random
import sys
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.passed_on import Keywords
from halfstep.program.uncaught import stands_around
from halfstep.takeover.patches import Patches

#: what the seed is called where it is passed by name
_NAMES = ("seed", "a", "x", "entropy", "key")

#: the seed that PyTorch gives a generator of its own (c10::default_rng_seed_val)
_TORCH_DEFAULT = 67280421310721

#: tempfile makes its names with a Random of its own, which must stay the system's: it was imported above, before
#: ``random.Random`` is replaced
_ = tempfile


def shift_seeds(k: int) -> Callable[[], None]:
    """Seed the standard library, NumPy and the frameworks with ``k``, and shift what the script sets by ``k``.

    Returns:
        Ends the shift: seeds that the program sets after that are its own.
    """
    shift = _Shift(k)
    random.seed(k)
    shift.function(random, "seed")
    shift.method(random, "Random", "seed")
    libraries = {"numpy": _numpy, "torch": _torch, "tensorflow": _tensorflow, "keras": _keras, "jax": _jax}
    for name, wrap in libraries.items():
        shift.patches.when_imported(name, functools.partial(wrap, shift))
    return shift.patches.undo


def _numpy(shift: _Shift, numpy: ModuleType) -> None:
    numpy.random.seed(shift.k)
    for name in ("seed", "default_rng"):
        shift.function(numpy.random, name)
    for name in ("SeedSequence", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
        shift.method(numpy.random, name, "__init__")
    shift.method(numpy.random, "RandomState", "__init__", "seed")
    shift.unshifted(
        numpy.random.SeedSequence, "spawn"
    )  # it makes children of the entropy that is shifted already


def _torch(shift: _Shift, torch: ModuleType) -> None:
    torch.manual_seed(shift.k)
    shift.function(torch, "manual_seed")
    for name in ("manual_seed", "manual_seed_all"):
        shift.function(torch.cuda, name)
    generator = shift.method(torch, "Generator", "manual_seed")
    original = generator.__mro__[1]

    def unseeded(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = original.__new__(cls, *args, **kwargs)
        # PyTorch's own seed for it is a constant: every K would draw the same.
        original.manual_seed(made, _TORCH_DEFAULT + shift.k)
        return made

    if shift.k:
        generator.__new__ = staticmethod(unseeded)


def _tensorflow(shift: _Shift, tensorflow: ModuleType) -> None:
    tensorflow.random.set_seed(shift.k)
    shift.function(tensorflow.random, "set_seed")
    shift.function(tensorflow.random.Generator, "from_seed")


def _keras(shift: _Shift, keras: ModuleType) -> None:
    """Keras seeds every library that it uses, each once; a layer's own seed is that of its ``SeedGenerator``."""
    if hasattr(keras.utils, "set_random_seed"):
        shift.function(keras.utils, "set_random_seed")
    if hasattr(keras, "random"):
        shift.in_place(keras.random.SeedGenerator, "__init__")


def _jax(shift: _Shift, jax: ModuleType) -> None:
    for name in ("key", "PRNGKey"):
        shift.function(jax.random, name)


class _Shift:
    """Wraps seeding functions so that an integer seed arrives as ``seed + k``, once however they call each other."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._inside = False
        self.patches = Patches()

    def function(self, owner: Any, name: str) -> None:
        """Replace ``owner.name`` by one that shifts."""

        def shifting(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: self._call(original, args, kwargs)

        self.patches.wrap(owner, name, shifting)

    def in_place(self, owner: type, method: str) -> None:
        """Let a class's own ``method`` shift; without a seed it is left alone, as it draws one from what is seeded."""

        def shifting(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda instance, seed=None, **kwargs: original(instance, self._plus(seed), **kwargs)

        self.patches.wrap(owner, method, shifting)

    def method(self, owner: Any, name: str, *methods: str) -> Any:
        """Replace the class ``owner.name`` by a subclass whose ``methods`` shift; the base's instances are its own."""
        base = getattr(owner, name)

        class OneOfBoth(type(base)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, base)

        def shifted(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda instance, *args, **kwargs: self._call(
                functools.partial(original, instance), args, kwargs
            )

        own = {method: shifted(getattr(base, method)) for method in methods}
        made = OneOfBoth(name, (base,), {**own, "__module__": base.__module__, "__doc__": base.__doc__})
        self.patches.set(owner, name, made)
        if getattr(sys.modules.get(base.__module__), name, None) is base:
            # Pickle finds the replaced class by this name; an instance of it serves as well.
            first = operator.itemgetter(0)
            copyreg.pickle(OneOfBoth, lambda cls: (first, ((base,),)) if cls is made else cls.__qualname__)
        return made

    def unshifted(self, owner: type, method: str) -> None:
        """Let a class's own ``method`` seed as it does: its argument is shifted already."""

        def unshifting(original: Callable[..., Any]) -> Callable[..., Any]:
            def alone(*args: Any, **kwargs: Any) -> Any:
                inside, self._inside = self._inside, True
                try:
                    return original(*args, **kwargs)
                finally:
                    self._inside = inside

            return alone

        self.patches.wrap(owner, method, unshifting)

    @stands_around
    def _call(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Keywords) -> Any:
        if self._inside:
            return original(*args, **kwargs)
        self._inside = True
        try:
            named = {name: self._plus(v) if name in _NAMES else v for name, v in kwargs.items()}
            return original(*self._args(args, kwargs), **named)
        finally:
            self._inside = False

    def _args(self, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Any, ...]:
        if args and args[0] is not None:
            return (self._plus(args[0]), *args[1:])
        # No seed means: from the operating system's entropy. Here: reproducibly.
        return () if any(kwargs.get(name) is not None for name in _NAMES) else (self.k,)

    def _plus(self, seed: Any) -> Any:
        """The seed shifted: whole numbers of any library, text, and lists of numbers; another kind stays as it is."""
        if isinstance(seed, bool) or self.k == 0:
            return seed
        if isinstance(seed, str):
            return f"{seed}+{self.k}"
        if isinstance(seed, bytes | bytearray):
            return type(seed)(seed + b"+%d" % self.k)
        if isinstance(seed, float):
            return seed + self.k
        try:
            return operator.index(seed) + self.k
        except (TypeError, ValueError, RuntimeError):  # a tensor or an array of several, say
            pass
        several = seed.tolist() if hasattr(seed, "tolist") else seed
        if isinstance(several, list | tuple) and several and all(isinstance(part, int) for part in several):
            return [*several, self.k]
        return seed
