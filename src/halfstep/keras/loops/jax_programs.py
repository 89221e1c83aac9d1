"""The script's own ``jax.jit``: after a call into a program that trains, its steps are read, and one is looked into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

import jax

from halfstep.keras.recording.sample import shapes_of
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.loops.jax import JaxLoops
    from halfstep.keras.takeover import Takeover

Method = Callable[..., Any]


class Programs:
    """Compiled functions of the script's.

    Args:
        takeover: Keras's.
        loops: what is told after a call into one that trains.
    """

    def __init__(self, takeover: Takeover, loops: JaxLoops) -> None:
        self._takeover = takeover
        self._loops = loops
        self._calls: list[Program] = []

    def install(self, patches: Patches) -> None:
        """See every function that the script compiles from here on."""
        patches.wrap(jax, "jit", self._jit)

    def _jit(self, original: Method) -> Method:
        def jit(*functions: Any, **options: Any) -> Any:
            if not functions and "fun" not in options:
                return lambda function: jit(function, **options)
            return Program(original(*functions, **options), self)

        return jit

    def traced_step(self) -> bool:
        """A step is being traced, or made: whether inside a compiled function."""
        for program in self._calls:
            program.trains = True
        return bool(self._calls)

    def call(self, program: Program, args: Any, kwargs: Any) -> Any:
        """Call ``program``; the outermost that trains has its steps read."""
        if self._calls or self._takeover.training:
            return program.original(*args, **kwargs)
        watched = program.trains and self._takeover.progress.sampling
        shapes = shapes_of((args, kwargs)) if watched else None  # buffers may be given away
        self._calls.append(program)
        try:
            result = program.original(*args, **kwargs)
        finally:
            self._calls.pop()
        if shapes is not None:
            self._takeover.progress.look_into(program.original, shapes, self._loops.waiting)
        if program.trains:
            self._loops.read()
        return result


class Program:
    """A compiled function; in all else the one that ``jax.jit`` gave."""

    def __init__(self, original: Any, programs: Programs) -> None:
        self.original = original
        self.trains = False
        self._programs = programs
        functools.update_wrapper(self, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._programs.call(self, args, kwargs)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else MethodType(self, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)
