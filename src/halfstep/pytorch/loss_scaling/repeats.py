"""Repeats a pass until the gradients that the script gets are finite, wherever they are finite unscaled.

A gradient that an optimizer uses may overflow: its step is skipped, and the next scale is lower. A gradient that the
script itself gets, by ``torch.autograd.grad`` or where there is no optimizer, goes into its own arithmetic. So an
overflow under the loss scale is repaired before the script sees it:

- The graph is kept until the results are known to be finite. If they are not, the pass is repeated under a lower
  scale; then the graph is freed, if plain PyTorch had freed it.
- Each line of the script that asks for gradients has its own scale. An overflow lowers it. Its first pass also looks
  for a higher one, because a scale that is too low loses small gradients; so does a pass whose gradients are much
  smaller than those for which the scale was found.
- The script's own code runs once: hooks, and the ``backward`` of its own ``autograd.Function`` classes. A repeat uses
  again what they have returned, in its own unit. An attempt ends before they would get a gradient that is not finite,
  unless no scale helps.
- The state of PyTorch's random generators is put back before a repeat: a recomputed dropout drops the same.

Cost: results are read once per pass, which on a GPU is one synchronisation; activations are freed at the end of the
pass instead of node by node.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.pass_scales import HIGHEST, LOWEST, PassScale, PassScales
from halfstep.pytorch.loss_scaling.values import largest

#: a search ends when the scale is this close to one that overflows
CLOSE, CLOSE_UPWARDS = 2.0**2, 2.0**4
#: a higher scale is searched for gradients that are smaller by this factor than those for which it was found
SMALLER = 2.0**-6


class Attempts:
    """One pass, attempted under one scale after another until its results are finite.

    Args:
        scale: the scale of the line; it is moved.
        scales: the scales of all lines.
        attempt: makes the pass under a scale and returns its results; None if they, or gradients for the script's code,
            are not finite. The second argument is False in the last attempt, whose results are taken in any case.
        searches: whether a higher scale is looked for in a new line.
        handed_out: gives the gradients among the results.
    """

    def __init__(
        self,
        scale: PassScale,
        scales: PassScales,
        attempt: Callable[[float, bool], Any],
        searches: bool,
        handed_out: Callable[[Any], Iterable[Tensor]],
    ) -> None:
        self._scale, self._scales, self._attempt, self._searches = scale, scales, attempt, searches
        self._handed_out = handed_out

    def made(self) -> Any:
        """Make the pass; returns the results."""
        scale, start = self._scale, self._scale.value
        results = self._attempt(start, True)
        found: tuple[float, Any] | None = None
        if results is None:
            found = self._again(start) if scale.hopeless else self._lower(start)
        elif not self._is_low(start, results):
            self._scales.succeeded(scale, start)
            return results
        else:
            found = self._higher(start, results)
        if found is None:
            scale.new, scale.hopeless = False, True
            return self._attempt(start, False)
        under, results = found
        self._scales.succeeded(scale, under)
        if self._searches:
            scale.largest = self._size(under, results)
        return results

    def _is_low(self, under: float, results: Any) -> bool:
        """Whether a higher scale may keep more of the gradients, which are finite."""
        scale = self._scale
        if not self._searches or under >= HIGHEST:
            return False
        if scale.new:
            return True
        size = self._size(under, results)
        scale.largest, low = max(size, scale.largest), size < scale.largest * SMALLER
        return low

    def _size(self, under: float, results: Any) -> float:
        return under * largest(self._handed_out(results))

    def _again(self, bad: float) -> tuple[float, Any] | None:
        """After a pass that no scale helped, one low scale tells whether any does."""
        low = min(bad, 1.0)
        results = self._attempt(low, True)
        return None if results is None else self._between(low, bad, results, CLOSE)

    def _lower(self, bad: float) -> tuple[float, Any] | None:
        """Lower the scale by 2, 4, 8 and more bits until the pass is finite, then raise it as far as possible."""
        low, bits = bad, 2
        while low > LOWEST:
            low = max(low / 2.0**bits, LOWEST)
            results = self._attempt(low, True)
            if results is not None:
                return self._between(low, bad, results, CLOSE)
            bad, bits = low, 2 * bits
        return None

    def _higher(self, good: float, results: Any) -> tuple[float, Any]:
        while good < HIGHEST:
            high = min(good * 2.0**8, HIGHEST)
            more = self._attempt(high, True)
            if more is None:
                return self._between(good, high, results, CLOSE_UPWARDS)
            good, results = high, more
        return good, results

    def _between(self, good: float, bad: float, results: Any, close: float) -> tuple[float, Any]:
        """The highest scale between one that is finite and one that is not, by halving the interval of exponents."""
        while bad / good > close:
            middle = good
            while middle * middle < good * bad:
                middle *= 2
            more = self._attempt(middle, True)
            if more is None:
                bad = middle
            else:
                good, results = middle, more
        return good, results


class RandomState:
    """The state of PyTorch's random generators when the pass began."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back(self) -> None:
        """Restore the state, so that the same numbers are drawn again."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def quiet() -> AbstractContextManager[Any]:
    """Silence anomaly mode's warnings of attempts; what no scale cures it reports in the last attempt."""
    return warnings.catch_warnings() if torch.is_anomaly_enabled() else nullcontext()
