"""What the script's own code (hooks, custom Functions) returns in a backward pass that may be repeated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor

from halfstep.pytorch.loss_scaling.values import finite
from halfstep.pytorch.nested import tensors_of

Answer = TypeVar("Answer")


class Overflowed(Exception):
    """Raised to end an attempt inside PyTorch's engine: the script's code would get a value that is not finite."""


class Answers:
    """Keeps what the script's own code has returned in a pass, so that each call runs once although it is repeated.

    Args:
        targets: what the pass accumulates gradients into; None where it only returns them.

    Attributes:
        muted: whether the script's code does not run at all.
        of_functions: whether custom Functions run once, too, and not in every attempt.
    """

    muted = False
    of_functions = True

    def __init__(self, targets: Iterable[Tensor] | None = None) -> None:
        self._targets = None if targets is None else set(map(id, targets))
        self._answers: dict[tuple[int, int], tuple[Any, float]] = {}
        self._calls: dict[int, int] = defaultdict(int)
        self._askers: list[object] = []
        self._refuses = True

    def begin(self, refuses: bool) -> None:
        """An attempt begins; if it ``refuses``, it ends where the script would get a value that is not finite."""
        self._calls.clear()
        self._refuses = refuses

    def knows(self, leaves: Iterable[Tensor]) -> bool:
        """Whether a repeat may accumulate into ``leaves``, whose gradients are put back before it."""
        return self._targets is None or self._targets.issuperset(map(id, leaves))

    def ask(
        self,
        asker: object,
        given: Any,
        scale: float,
        answer: Callable[[], Answer],
        rescaled: Callable[[Answer, float], Answer],
    ) -> Answer:
        """What the script's code returns for ``given``, in the unit of ``scale``: now, or in an earlier attempt.

        Args:
            asker: the hook or node; its calls come in the same order in every attempt.
            given: what it gets.
            scale: the scale of this attempt.
            answer: calls it.
            rescaled: multiplies what it has returned by a power of two.

        Raises:
            Overflowed: ``given`` is not finite.
        """
        key = id(asker), self._calls[id(asker)]
        self._calls[id(asker)] += 1
        if key in self._answers:
            found, unit = self._answers[key]
            return rescaled(found, scale / unit) if scale != unit else found
        if self._refuses and not finite(tensors_of((given,))):
            raise Overflowed
        found = answer()
        if not self._refuses or finite(tensors_of((found,))):
            self._askers.append(asker)  # else another object may get its id
            self._answers[key] = found, scale
        return found


class Muted(Answers):
    """For a pass that is not the script's: no code of the script runs, and no gradient changes."""

    muted = True

    def ask(self, *_: Any) -> Any:
        """Nothing."""


class Silent(Muted):
    """For a pass in which no hook runs, but the whole graph is executed."""

    muted = of_functions = False
