"""What the parts of the takeover need from Keras's backend, and report to it, while a program trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Runtime:
    """A backend that computes eagerly on one device; by default it does nothing at the moments of a step.

    Attributes:
        functional: a ``train_step`` is given the values of all variables and returns new ones; the variables themselves
            hold no values meanwhile.
        adjacent_steps: in a loop of the script's own a step begins where the one before it ends; elsewhere a tape or
            the call of a compiled function begins it.
    """

    functional = False
    adjacent_steps = False

    def all_finite(self, grads: Sequence[Any]) -> Any:
        """Whether all gradients are finite, as one flag: one pass over them. A gradient may be None."""
        raise NotImplementedError

    def copied(self, value: Any) -> Any:
        """A copy of ``value``, which does not change when its variable does."""
        return value

    def trace(self) -> Any:
        """The current trace, if values of one trace must not get into another; else None."""
        return None

    def wait_for(self, value: Any) -> None:
        """Return when ``value`` has been computed; a backend may return values before they are."""

    def undivided(self, loss: Any) -> Any:
        """A replica's loss without Keras's division by the number of replicas, which lets gradients be summed."""
        return loss

    def reducible(self, finite: Any) -> Any:
        """Whether gradients are finite, as a number whose mean over replicas can be taken; None stays None."""
        return finite

    def outside_of_graphs(self, make: Callable[[], Any]) -> None:
        """Call ``make``, which makes variables, outside of the graph that is being traced."""
        make()

    def reachable(self, copy: Any) -> bool:
        """Whether a tensor can be used here: it may belong to the graph of another function."""
        return True

    def loss_scaled(self, scale: Callable[[], Any] | None) -> None:
        """Keras has scaled the loss of the backward pass to come, by ``scale()``; None: its gradients are applied."""

    def train_step_scale(self, scale: Any) -> None:
        """A train_step begins, whose optimizer has this scale; or (None) it is over."""

    def stepped(self) -> None:
        """An optimizer of Keras's has made a step."""
