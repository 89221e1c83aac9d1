"""Gradients that the script is handed are finite wherever they are finite unscaled: such a pass is repeated.

A gradient that an optimizer uses may overflow: its step is skipped, and the next scale is lower. A gradient that the
script itself is handed, by ``torch.autograd.grad`` or where there is no optimizer, goes into its own arithmetic, so
an overflow under the loss scale is repaired before the script sees it:

- The graph is kept until the results are known to be finite. If they are not, the pass is repeated under a lower
  scale; then the graph is freed, if plain PyTorch had freed it.
- Each line of the script that asks for gradients has a scale of its own, which an overflow lowers, and which its first
  pass looks for upwards, too: a scale that is too low loses small gradients. So does a pass whose gradients are much
  smaller than those that the scale was found for.
- What belongs to the script runs once: hooks, and the ``backward`` of its own ``autograd.Function`` classes. What
  they answered is used again in a repeat, in its unit. They are not handed a gradient that is not finite, unless
  no scale helps: the attempt ends there.
- The state of PyTorch's random generators is put back before a repeat: a recomputed dropout drops the same.

Cost: results are read once per pass, which on a GPU is one synchronisation; activations are freed at the end of the
pass instead of node by node.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from halfstep.pytorch.loss_scaling.gradients import all_finite, values_of

#: the lowest and the highest scale of such a pass
LOWEST, HIGHEST = 2.0**-24, 2.0**40
#: a search ends where the scale is this close to one that overflows
CLOSE, CLOSE_UPWARDS = 2.0**2, 2.0**4
#: gradients that are smaller by this than those that a scale was found for have a higher one looked for
SMALLER = 2.0**-6
#: finite passes in a row after which a scale is doubled; an overflow then costs a repeat, and no step
INTERVAL = 500

#: a place in the program, and the depth of ``torch.func`` transforms there
Line = tuple[object, ...]

_CODES: dict[int, CodeType] = {}

Answer = TypeVar("Answer")

_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_unwrapped = torch._C._functorch.get_unwrapped
_level = torch._C._functorch.maybe_current_level


class Overflowed(Exception):
    """Ends an attempt inside PyTorch's engine: what the script's code was to be handed is not finite."""


class Answers:
    """What the script's own code answered in the pass under way: each call is asked once, whatever is repeated.

    Args:
        targets: what the pass accumulates gradients into; None where it only returns them.

    Attributes:
        muted: whether nothing is to be asked.
        of_functions: whether custom Functions are asked once, too, and not whenever they are passed.
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
        """An attempt begins; if it ``refuses``, it ends where the script would be handed what is not finite."""
        self._calls.clear()
        self._refuses = refuses

    def knows(self, leaves: Iterable[Tensor]) -> bool:
        """Whether a repeat may accumulate into ``leaves``: they are put back before it."""
        return self._targets is None or self._targets.issuperset(map(id, leaves))

    def ask(
        self,
        asker: object,
        given: Any,
        scale: float,
        answer: Callable[[], Answer],
        rescaled: Callable[[Answer, float], Answer],
    ) -> Answer:
        """The script's ``answer`` to ``given``, in the unit of ``scale``: a new one, or that of an earlier attempt.

        Args:
            asker: the hook or node; its calls come in the same order in every attempt.
            given: what it is handed.
            scale: of this attempt.
            answer: calls it.
            rescaled: an answer times a power of two.

        Raises:
            Overflowed: ``given`` is not finite.
        """
        key = id(asker), self._calls[id(asker)]
        self._calls[id(asker)] += 1
        if key in self._answers:
            found, unit = self._answers[key]
            return rescaled(found, scale / unit) if scale != unit else found
        if self._refuses and not finite(_tensors(given)):
            raise Overflowed
        found = answer()
        if not self._refuses or finite(_tensors(found)):
            self._askers.append(asker)  # else another object may get its id
            self._answers[key] = found, scale
        return found


class Muted(Answers):
    """The pass is none of the script's: nothing is asked, and no gradient changed."""

    muted = True

    def ask(self, *_: Any) -> Any:
        """Nothing."""


class Silent(Muted):
    """No hook is asked, but the graph is gone through."""

    muted = of_functions = False


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


@torch.no_grad()
def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite, also of tensors inside ``torch.func`` transforms. One synchronisation a device."""
    plain = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    if _level() is None:
        dense = [tensor for tensor in plain if tensor.layout is not torch.strided or tensor.is_contiguous()]
        others = [tensor for tensor in plain if tensor.layout is torch.strided and not tensor.is_contiguous()]
        # The multi-tensor kernel writes what it reads: not into an expanded tensor.
        return all_finite(dense) and all(bool(torch.isfinite(tensor).all()) for tensor in others)
    with torch._C._DisableFuncTorch():
        return all(bool(torch.isfinite(values_of(innermost(tensor))).all()) for tensor in plain)


def innermost(tensor: Tensor) -> Tensor:
    """What ``torch.func`` has wrapped."""
    while _wrapped(tensor):
        tensor = _unwrapped(tensor)
    return tensor


@torch.no_grad()
def largest(tensors: Iterable[Tensor]) -> float:
    """The largest magnitude of all values, which are finite.

    One synchronisation per device, or per tensor inside ``torch.func``.
    """
    plain = [tensor.detach() for tensor in tensors]
    with torch._C._DisableFuncTorch():
        values = (values_of(innermost(tensor)) for tensor in plain)
        norms = [torch.linalg.vector_norm(value, math.inf) for value in values if value.numel()]
        if _level() is None:
            devices = {norm.device for norm in norms}
            norms = [torch.stack([n for n in norms if n.device == device]).max() for device in devices]
        return max(map(float, norms), default=0.0)


@dataclass
class PassScale:
    """The scale of one line that asks for gradients.

    Attributes:
        value: a power of two.
        finite: finite passes in a row.
        largest: the largest magnitude, in the unit of the scale, that it was found for; 0 for a scale that was not.
        new: whether it was never used.
        hopeless: whether the last pass was not finite under any scale.
        repeatable: whether its graph bears a repeat; a compiled one that has given its buffers away does not.
    """

    value: float
    finite: int = 0
    largest: float = 0.0
    new: bool = True
    hopeless: bool = False
    repeatable: bool = True


class PassScales:
    """The scale of each line of the program that asks for gradients.

    Args:
        searches: whether a first pass looks for a higher scale, too.
        grows: whether scales are doubled after many finite passes.
    """

    def __init__(self, searches: bool, grows: bool) -> None:
        self.searches, self._grows = searches, grows
        self._scales: dict[tuple[Line, tuple[object, ...]], PassScale] = {}

    def here(self, start: float, *kind: object) -> PassScale:
        """The scale of the line outside PyTorch and halfstep that is executed now; ``start`` where it has none yet.

        Args:
            start: the loss scale.
            kind: tells passes of one line apart.
        """
        return self._scales.setdefault((here(), kind), PassScale(start))

    def succeeded(self, scale: PassScale, under: float) -> None:
        """A pass was finite ``under`` this scale."""
        scale.finite = scale.finite + 1 if under == scale.value else 1
        scale.value, scale.new, scale.hopeless = under, False, False
        if self._grows and scale.finite >= INTERVAL:
            scale.value, scale.finite = min(scale.value * 2, HIGHEST), 0


def differentiated_further(outputs: Sequence[Tensor | GradientEdge]) -> bool:
    """Whether gradients of ``outputs`` may be: ``torch.func`` creates a graph for the outermost of them, too."""
    if torch._C._functorch.maybe_current_level() is None:
        return True
    keys = [interpreter.key() for interpreter in torch._C._functorch.get_interpreter_stack() or ()]
    inner = [innermost(output) for output in outputs if isinstance(output, Tensor)]
    return keys.count(torch._C._functorch.TransformType.Grad) > 1 or any(t.requires_grad for t in inner)


def here() -> Line:
    """The line outside PyTorch and halfstep that is executed now."""
    frame = _outside(sys._getframe(1))
    code = frame.f_code
    _CODES[id(code)] = code  # else another one may get its id
    return id(code), frame.f_lasti, _level()


def _outside(frame: FrameType) -> FrameType:
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("torch.", "halfstep.")
    ):
        frame = frame.f_back
    return frame


class Attempts:
    """One pass, attempted under one scale after another until what it hands out is finite.

    Args:
        scale: of the line; it is moved.
        scales: all of them.
        attempt: makes the pass under a scale, and returns its results; None where they, or what the script's code was
            handed, are not finite. The second argument is False in the last attempt: its results are taken as they are.
        searches: whether a higher scale than that of a new line is looked for.
        handed_out: the gradients in such results.
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
        """The results."""
        scale, start = self._scale, self._scale.value
        results = self._attempt(start, True)
        found: tuple[float, Any] | None = None
        if results is None:
            found = self._only(min(start, 1.0)) if scale.hopeless else self._lower(start)
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
        """Whether a higher scale may hold more of the gradients, which are finite."""
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

    def _only(self, low: float) -> tuple[float, Any] | None:
        results = self._attempt(low, True)
        return None if results is None else (low, results)

    def _lower(self, bad: float) -> tuple[float, Any] | None:
        """Fall by 2, 4, 8 and more bits until the pass is finite, then regain what was too much."""
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
        """Draw the same again."""
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def quiet() -> AbstractContextManager[Any]:
    """PyTorch's anomaly mode warns of an attempt that ends; what no scale cures it warns of in the last one."""
    return warnings.catch_warnings() if torch.is_anomaly_enabled() else nullcontext()
