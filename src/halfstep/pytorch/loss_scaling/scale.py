"""The loss scale in force, what was skipped, and whether the gradients that an optimizer will use are finite."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from halfstep.errors import HalfstepError
from halfstep.loss_scale import DynamicScale, LossScale, Skip, Skips
from halfstep.pytorch.loss_scaling.gradients import (
    all_finite,
    multiply_,
    multiply_and_test_,
    trouble_in,
    values_of,
)
from halfstep.pytorch.loss_scaling.verdict import Verdict, capturing, refuse_dynamic

#: after so many finite steps in a row the next is likely to be finite, too: its verdict may be read late
CALM = 8

#: is told of a step's skip, None if it was made
Told = Callable[[Skip | None], None]


class SharedGradients(HalfstepError, RuntimeError):
    """Threads work on the same gradients at once: while one of them is in a scaled pass, ``.grad`` is scaled."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "Two threads use the gradients of the same parameters at once, which a loss scale cannot keep apart; "
            "give each thread a copy of the model, let them take turns with a threading.Lock, or use bf16, "
            "which needs no loss scale."
        )


class Scaling:
    """Mutable companion of a frozen :class:`~halfstep.loss_scale.LossScale`.

    Attributes:
        active: whether a scaled backward pass is under way (hooks then see scaled numbers).
        reached: the tensors that the pass under way accumulates gradients into, by id.
    """

    def __init__(self, loss_scale: LossScale) -> None:
        self._loss_scale = loss_scale
        self._under = loss_scale.value
        self.active = False
        self._skips = Skips()
        self._awaited: list[tuple[Verdict, int, Told]] = []
        self._finite_in_a_row = 0
        self.reached: dict[int, Tensor] = {}
        self._turn = threading.Lock()
        self._at_pass = loss_scale
        self._bad = False
        self._one_test = False
        self._tests_captured = False
        self._written: set[int] = set()
        self._aside: list[tuple[Tensor, Tensor]] = []
        self._versions: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._flags: list[Tensor] = []
        self._trouble: str | None = None
        self._retained: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    @property
    def loss_scale(self) -> LossScale:
        """The scale for the next backward pass. Waits for the verdicts of the steps before."""
        self.settle()
        return self._loss_scale

    @loss_scale.setter
    def loss_scale(self, loss_scale: LossScale) -> None:
        self.settle()
        self._loss_scale = loss_scale
        self._begin()

    @property
    def skips(self) -> Skips:
        """What was skipped so far, when and why. Waits for the verdicts of the steps before."""
        self.settle()
        return self._skips

    @property
    def value(self) -> float:
        """The factor that losses are multiplied by. Waits for the verdicts of the steps before."""
        return self.loss_scale.value

    @property
    def last_value(self) -> float:
        """The factor of the backward pass under way, or else of the last. Waits for nothing."""
        return self._under

    @property
    def calm(self) -> bool:
        """Whether the last steps were all finite, as far as is known."""
        return self._finite_in_a_row >= CALM

    def reach(self, tensors: Iterable[Tensor], create: bool = False) -> None:
        """The pass will accumulate into ``tensors``: bring the gradients that they have already to its unit.

        Args:
            tensors: leaves.
            create: the pass creates a graph: then PyTorch accumulates out of place.
        """
        new = {id(t): t for t in tensors if id(t) not in self.reached}
        self.reached |= new
        if create:
            for tensor in new.values():
                if tensor.grad is not None:
                    tensor.grad = tensor.grad * self._under
        else:
            self._set_aside(new.values())
            multiply_([grad for t in new.values() if (grad := t.grad) is not None], self._under)

    def _set_aside(self, tensors: Iterable[Tensor]) -> None:
        """Gradients that have a graph may be needed, as they are, by the pass itself: copies stand in for them."""
        for tensor in tensors:
            if (grad := tensor.grad) is not None and grad.requires_grad:
                self._aside.append((tensor, grad))
                tensor.grad = grad.detach().clone()

    @torch.no_grad()
    def put_back(self) -> None:
        """The pass is over, and gradients are unscaled: those that were set aside take over what they have become."""
        while self._aside:
            tensor, grad = self._aside.pop()
            if tensor.grad is not None:
                grad.copy_(tensor.grad)
                tensor.grad = grad

    def reach_inside(self, tensors: Iterable[Tensor]) -> None:
        """As :meth:`reach`, of tensors inside the graph."""
        new = {id(t): t for t in tensors if id(t) not in self.reached}
        self.reached |= new
        for tensor in new.values():
            if (
                tensor.retains_grad and tensor.grad is not None
            ):  # without the first, asking for it draws a warning
                tensor.grad = tensor.grad * self._under

    def begin_pass(self) -> None:
        """A backward pass is about to start, scaled or (at a scale of 1) not: the steps after it may move the scale.

        Raises:
            Captured: it is being captured into a CUDA graph, whose scale cannot move.
        """
        if isinstance(self._loss_scale, DynamicScale) and capturing():
            refuse_dynamic()
        self.settle()
        if not self.active:  # another thread's, which has to end under the scale that it began under
            self._begin()

    def _begin(self) -> None:
        self._at_pass, self._bad, self._under = self._loss_scale, False, self._loss_scale.value

    @contextmanager
    def running(self, tensors: Iterable[Tensor] = (), create: bool = False) -> Iterator[float]:
        """A scaled backward pass into ``tensors`` is under way; threads take turns.

        Yields:
            The scale, the same until the pass is over although a hook may step an optimizer meanwhile.

        Raises:
            SharedGradients: another thread is in a pass into one of them.
        """
        if not self._turn.acquire(blocking=False):
            self.refuse_shared(tensors := list(tensors))
            self._turn.acquire()
        self._begin()
        self.active = True
        try:
            self.reach(tensors, create)
            yield self._under
        finally:
            self.active = False
            self.reached = {}
            self._turn.release()

    def refuse_shared(self, tensors: Iterable[Tensor]) -> None:
        """Raise if the pass under way, in another thread, accumulates gradients into one of ``tensors``."""
        if any(id(tensor) in self.reached for tensor in tensors):
            raise SharedGradients

    def checked(self, gradients: Sequence[Tensor], flags: list[Tensor]) -> None:
        """Remember that ``gradients``, as they are now, were tested; ``flags`` tell the outcome.

        PyTorch counts the writes to a tensor, but not, of a DTensor, those to this rank's part: that has its own count.
        """
        versions, strided = self._versions, torch.strided
        for g in gradients:  # a plain loop, as in _unchanged
            if g.layout is strided:
                versions[id(g)] = weakref.ref(g), g._version if type(g) is Tensor else values_of(g)._version
        self._tests_captured = capturing()
        self._one_test = len(versions) == len(gradients)  # then what was found before is superseded
        if self._one_test:
            self._forget_findings()
        self._flags = self._flags + flags

    def finite(self, gradients: Sequence[Tensor]) -> bool:
        """Whether all gradients are finite, as the optimizer will use them. One synchronisation.

        What the unscaling pass has tested and nobody changed since (PyTorch counts a tensor's versions) is not
        read again; anything else is.
        """
        if self._unchanged(gradients) and not any(bool(flag) for flag in self._flags):
            return True
        # Not tested yet, or some gradient of some pass was not finite: whether it is one of these takes a look.
        finite = all_finite(gradients)
        self._trouble = None if finite else trouble_in(gradients)
        return finite

    def verdict(self, gradients: Sequence[Tensor]) -> Verdict:
        """As :meth:`finite`, of gradients on one device, without waiting for the answer."""
        return Verdict(self.found(gradients))

    def found(self, gradients: Sequence[Tensor]) -> Tensor:
        """1 where a gradient is not finite, else 0: a float32 scalar on their device. No synchronisation."""
        tested = self._one_test and len(self._versions) == len(gradients) and self._unchanged(gradients)
        return self._in_one(gradients, tested)

    def found_in_graph(self, gradients: Sequence[Tensor]) -> Tensor:
        """As :meth:`found`, of a step that is being captured: what was tested outside the graph is tested in it."""
        captured = self._tests_captured
        found = self.found(gradients) if captured else self._in_one(gradients, tested=False)
        self._forget_tests()
        return found

    def _in_one(self, gradients: Sequence[Tensor], tested: bool) -> Tensor:
        flags = self._flags if tested else multiply_and_test_(gradients, 1.0)
        scalars = [flag.reshape(()) for flag in flags]
        return scalars[0] if len(scalars) == 1 else torch.stack(scalars).amax()

    def clipping(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap ``clip_grad_norm_``, so that what it has changed need not be read again.

        The norm, which has been computed anyway, is finite only if every gradient is (for a positive ``norm_type``;
        one of 0 counts a NaN as 1), and then the coefficient is between 0 and 1. No synchronisation.
        """

        def clip_grad_norm_(
            parameters: Any,
            max_norm: float,
            norm_type: float = 2.0,
            error_if_nonfinite: bool = False,
            *args: Any,
            **kwargs: Any,
        ) -> Tensor:
            tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            given = tensors or parameters  # of an empty generator PyTorch warns
            # A scale that is too high is no error of the script's: the step is skipped, and the next scale is lower.
            error = error_if_nonfinite and self.stuck
            norm = original(given, max_norm, norm_type, error, *args, **kwargs)
            if max_norm >= 0 and float(norm_type) > 0:
                gradients = [grad for p in tensors if (grad := p.grad) is not None]
                self.checked(gradients, [(~torch.isfinite(norm)).float().reshape(1)])
            return norm

        return clip_grad_norm_

    def exposing(self, original: Any) -> property:
        """Wrap ``Tensor.data``: PyTorch does not count writes through it, so a gradient asked for it is read again."""

        def get(tensor: Tensor) -> Tensor:
            self._versions.pop(id(tensor), None)
            return original.__get__(tensor)  # type: ignore[no-any-return]

        def set_(tensor: Tensor, data: Tensor) -> None:
            self._versions.pop(id(tensor), None)
            original.__set__(tensor, data)

        return property(get, set_)

    def exposing_array(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``Tensor.numpy``, as :meth:`exposing`."""

        def numpy(tensor: Tensor, **kwargs: bool) -> Any:
            self._versions.pop(id(tensor), None)
            return original(tensor, **kwargs)

        return numpy

    def written(self, tensors: Iterable[Tensor]) -> None:
        """``tensors`` are being written to, uncounted by PyTorch: gradients in their memory are read again."""
        if self._versions:
            self._written.update(_memory(tensor) for tensor in tensors)

    def _unchanged(self, gradients: Sequence[Tensor]) -> bool:
        """Whether each was tested and not written to since. One loop: this is asked of every gradient of every step."""
        find = self._versions.get
        for gradient in gradients:
            entry = find(id(gradient))
            own = gradient if type(gradient) is Tensor else values_of(gradient)
            if entry is None or entry[0]() is not gradient or entry[1] != own._version:
                return False
        return not self._written or self._written.isdisjoint(map(_memory, gradients))

    def stepped(self, finite: bool, step: int) -> Skip | None:
        """Move the scale on after step number ``step`` was made (None is returned) or skipped.

        Several optimizers that step after one backward pass move it once, down if one of them was kept from it; so do
        steps without a pass between.
        """
        self.settle()
        reason, self._trouble = self._trouble or "gradients of another rank are not finite", None
        self._forget_tests()
        return self._move(finite, step, reason)

    def stepped_unread(self, verdict: Verdict, step: int, told: Told) -> None:
        """As :meth:`stepped`, when the verdict is read: before anything is asked that depends on it."""
        self._forget_tests()
        self._awaited.append((verdict, step, told))

    def settle(self) -> None:
        """Read the verdicts that are awaited, and tell what they were; during a capture nothing may be waited for."""
        if not self._awaited or capturing():
            return
        while self._awaited:
            verdict, step, told = self._awaited.pop(0)
            told(self._move(verdict.finite, step, "gradients are not finite"))

    def _forget_tests(self) -> None:
        self._versions.clear()
        self._forget_findings()

    def _forget_findings(self) -> None:
        self._written.clear()
        self._flags = []

    def _move(self, finite: bool, step: int, reason: str) -> Skip | None:
        skip = None if finite else Skip(step, self._under, reason)
        self._skips = self._skips.next(skip)
        self._finite_in_a_row = self._finite_in_a_row + 1 if finite else 0
        self._bad = self._bad or not finite
        self._loss_scale = self._at_pass.next(not self._bad)
        return skip

    @property
    def skipped(self) -> int:
        """Optimizer steps skipped so far."""
        return self.skips.count

    @property
    def stuck(self) -> bool:
        """Whether the scale can fall no further."""
        scale = self.loss_scale
        return not isinstance(scale, DynamicScale) or scale.at_floor

    def state(self) -> dict[str, float | int]:
        """What a checkpoint has to carry: plain numbers, so that ``weights_only=True`` loads them."""
        finite_steps = self.loss_scale.finite_steps if isinstance(self.loss_scale, DynamicScale) else 0
        return {"loss_scale": self.value, "finite_steps": finite_steps, "skipped_steps": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off; a scale that is not dynamic keeps its own value."""
        scale = self.loss_scale
        self._skips = Skips(before=int(state["skipped_steps"]))
        if isinstance(scale, DynamicScale):
            value = min(max(float(state["loss_scale"]), scale.floor), scale.ceiling)
            self.loss_scale = DynamicScale(
                value, scale.growth, scale.backoff, scale.interval, scale.floor, scale.ceiling,
                int(state["finite_steps"]),
            )  # fmt: skip

    def retained(self) -> Iterable[Tensor]:
        """Tensors inside the graph whose ``.grad`` the script asked to keep."""
        return tuple(self._retained.values())

    def retaining(self, original: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """Wrap ``Tensor.retain_grad``: these gradients have to be unscaled, too."""

        def retain_grad(tensor: Tensor) -> None:
            original(tensor)
            if not tensor.is_leaf:
                self._retained[id(tensor)] = tensor

        return retain_grad


def _memory(tensor: Tensor) -> int:
    """Names the memory that a tensor is a view of."""
    return int(values_of(tensor).untyped_storage()._cdata)
