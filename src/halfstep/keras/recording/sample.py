"""One step looked at closely: which dtypes its matrix products ran in, and where its memory went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfstep.takeover.patches import Patches

#: why a record of Keras has no bytes of activations
NO_ACTIVATIONS = "Keras's backends do not tell which tensors they keep for the backward pass"
#: why it has no shares of a step's time
NO_TIMES = "halfstep profiles a step of PyTorch's, not one of Keras's"


class Unknown(Exception):
    """A product whose size or number cannot be told from a program that was not run; the message says which."""


class Sample:
    """Counts the products of a step that runs eagerly, operation by operation. That makes the step slower.

    Args:
        counter: makes a context that counts, with the products' FLOPs by format in ``flops``.

    Attributes:
        flops: FLOPs of the step's products by format; None before, and where they could not be counted.
        absent: why they could not be counted.
    """

    def __init__(self, counter: Callable[[], Any]) -> None:
        self.flops: dict[str, int] | None = None
        self.absent: str | None = None
        self._new_counter = counter
        self._counter: Any = None

    def install(self, patches: Patches) -> None:
        """See what Keras compiles."""

    def trace_begins(self) -> None:
        """A step is being traced, or run eagerly, from here on."""

    def open_eager(self) -> None:
        """The sampled step begins, in a loop of the script's own: operations are counted as they come."""
        self._look(self._count)

    def close_eager(self) -> None:
        """The sampled step is over."""
        counter, self._counter = self._counter, None
        if counter is not None:
            self._look(lambda: self._counted(counter))

    def watch(self, call: Callable[..., Any], args: Any, kwargs: Any, on_batch: Callable[[Any], Any]) -> Any:
        """Return the result of ``call``, which is the sampled step; ``on_batch`` gives the batch's size from it."""
        Sample.open_eager(self)
        try:
            return call(*args, **kwargs)
        finally:
            self.close_eager()

    def look_into(self, program: Any, args: Any, kwargs: Any, steps: int = 1) -> None:
        """A compiled function has made ``steps`` with such arguments: count its products, where it can be read."""

    def _count(self) -> None:
        counter = self._new_counter()
        counter.__enter__()
        self._counter = counter

    def _counted(self, counter: Any) -> None:
        counter.__exit__(None, None, None)
        self.flops = dict(counter.flops)

    def _look(self, look: Callable[[], Any]) -> None:
        """Look; where that fails, the products are absent with the reason, and the program goes on."""
        try:
            look()
        except Unknown as unknown:
            self.absent = str(unknown)
        except Exception as error:
            self.flops = None
            self.absent = f"the products could not be counted: {str(error).partition(chr(10))[0]}"
