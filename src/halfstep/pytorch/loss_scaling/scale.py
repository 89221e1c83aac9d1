"""The loss scale in force: which steps were skipped, and when it moves."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from halfstep.errors import HalfstepError
from halfstep.passed_on import StateDict
from halfstep.precisions.loss_scale import DynamicScale, LossScale, Skip, Skips
from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling.answers import Answers, Muted
from halfstep.pytorch.loss_scaling.finite_cache import FiniteCache
from halfstep.pytorch.loss_scaling.pass_gradients import PassGradients
from halfstep.pytorch.loss_scaling.pass_scales import PassScales
from halfstep.pytorch.loss_scaling.pending_flag import Verdict, refuse_dynamic
from halfstep.pytorch.loss_scaling.scaled_pass import NoScaledPass, scaled_pass
from halfstep.pytorch.loss_scaling.selective_checkpoints import SelectiveCheckpoints

#: after this many finite steps in a row the next is likely to be finite, too, and its verdict may be read late
CALM = 8

#: seconds, at first: a running pass learns which tensors it accumulates into at its first node
LOOK_AGAIN = 0.01

#: called with the skip of a step, or with None if the step was made
Told = Callable[[Skip | None], None]


class SharedGradients(HalfstepError, RuntimeError):
    """Threads work on the same gradients at once, which are scaled while one of the threads is in a scaled pass."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "Two threads use the gradients of the same parameters at once, which a loss scale cannot keep apart; "
            "give each thread a copy of the model, let them take turns with a threading.Lock, or use bf16, "
            "which needs no loss scale."
        )


class _Running(AbstractContextManager[float]):
    """The context of a scaled pass; a class, since a generator would take twice as long."""

    def __init__(
        self,
        scaling: Scaling,
        targets: Callable[[], Iterable[Tensor]],
        ceiling: float,
        scale: float | None,
        answers: Answers | None,
    ) -> None:
        self._scaling, self._targets, self._ceiling = scaling, targets, ceiling
        self._scale, self._answers = scale, answers

    def __enter__(self) -> float:
        return self._scaling.begin_running(self._targets, self._ceiling, self._scale, self._answers)

    def __exit__(self, *_: object) -> None:
        self._scaling.end_running()


class Scaling:
    """Mutable companion of a frozen :class:`~halfstep.precisions.loss_scale.LossScale`.

    Attributes:
        active: whether a scaled backward pass is running, in which gradients are scaled.
        finite_cache: knows which gradients need not be read again.
        pass_gradients: knows which tensors the running pass accumulates into.
        answers: what the script's code has returned in a pass that may be repeated; None in any other pass.
        pass_scales: the scales of lines that ask for gradients themselves.
        selective_checkpoints: lets a graph with selective checkpoints be run again.
        factor_above: gives the factor by which a framework on top of PyTorch has scaled the loss of the next pass;
            None if there is no such framework.
    """

    def __init__(self, loss_scale: LossScale, in_fp16: bool = False) -> None:
        self._loss_scale = loss_scale
        self._start = loss_scale.value
        self.answers: Answers | None = None
        dynamic = isinstance(loss_scale, DynamicScale)
        self.pass_scales = PassScales(searches=dynamic and in_fp16, grows=dynamic)
        self.selective_checkpoints = SelectiveCheckpoints()
        self._under = self._before = loss_scale.value
        self.active = False
        self.factor_above: Callable[[], Any] | None = None
        in_cpp = (scaled_pass() if loss_scale.guards else None) or NoScaledPass()
        self.finite_cache = FiniteCache(in_cpp)
        self.pass_gradients = PassGradients(in_cpp, self.finite_cache)
        self._skips = Skips()
        self._awaited: list[tuple[Verdict, int, bool, Told]] = []
        self._finite_in_a_row = 0
        self._last_skipped = False
        self._turn = threading.Lock()
        self._at_pass = loss_scale
        self._bad = False

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
        """Which steps were skipped so far, and why. Waits for the verdicts of the steps before."""
        self.settle()
        return self._skips

    @property
    def value(self) -> float:
        """The factor that losses are multiplied by. Waits for the verdicts of the steps before."""
        return self.loss_scale.value

    def above(self) -> float:
        """The factor by which a framework on top of PyTorch has scaled the loss. On a GPU this waits for it."""
        return 1.0 if self.factor_above is None else float(self.factor_above())

    @property
    def last_value(self) -> float:
        """The factor of the running backward pass, or else of the last one. Waits for nothing."""
        return self._under

    @property
    def calm(self) -> bool:
        """Whether the last steps were all finite, as far as verdicts have been read."""
        return self._finite_in_a_row >= CALM

    def begin_pass(self) -> None:
        """A backward pass is about to start, scaled or (at a scale of 1) not; the steps after it may move the scale.

        Raises:
            Captured: it is being captured into a CUDA graph, whose scale cannot move.
        """
        if isinstance(self._loss_scale, DynamicScale) and capturing():
            refuse_dynamic()
        self.settle()
        if not self.active:  # a running pass of another thread has to end under the scale with which it began
            self._begin()

    def _begin(self) -> None:
        self._at_pass, self._bad, self._under = self._loss_scale, False, self._loss_scale.value

    def running(
        self,
        targets: Callable[[], Iterable[Tensor]] = tuple,
        ceiling: float = math.inf,
        scale: float | None = None,
        answers: Answers | None = None,
    ) -> AbstractContextManager[float]:
        """The context of a scaled backward pass; threads take turns.

        Args:
            targets: gives the leaves that it accumulates into; called if another thread is in a pass.
            ceiling: the largest scale that fits into the dtype of the outputs.
            scale: the scale of a pass that has its own; None for the loss scale.
            answers: keeps what the script's code returns, in a pass that may be repeated.

        Returns:
            A context that yields the scale, which stays the same until the pass is over, even if a hook steps an
            optimizer meanwhile.

        Raises:
            SharedGradients: another thread is in a pass into one of them.
        """
        return _Running(self, targets, ceiling, scale, answers)

    def beside(self, scaled_by_script: bool) -> float | None:
        """The scale beside the script's own loss scale: a dynamic one then starts at 1, and moves as always.

        Returns:
            None if the script has no scale, or the user has set the recipe's.
        """
        if not scaled_by_script or not isinstance(self._loss_scale, DynamicScale):
            return None
        return self._loss_scale.value / self._start

    def begin_running(
        self,
        targets: Callable[[], Iterable[Tensor]],
        ceiling: float,
        scale: float | None,
        answers: Answers | None,
    ) -> float:
        """Begin what :meth:`running` describes."""
        if not self._turn.acquire(blocking=False):
            own, wait = tuple(targets()), LOOK_AGAIN
            self.refuse_shared(own)
            while not self._turn.acquire(timeout=wait):
                self.refuse_shared(own)
                wait *= 2
        self._before = self._under
        self._begin()
        self._under = min(self._under if scale is None else scale, ceiling)
        self.pass_gradients.begin(self._under)
        self.answers = answers
        self.active = True
        return self._under

    def end_running(self) -> None:
        """End it."""
        self.active = False
        if isinstance(self.answers, Muted):  # not a pass of the script's
            self._under = self._before
        self.answers = None
        self.pass_gradients.end()
        self._turn.release()

    def refuse_shared(self, tensors: Iterable[Tensor]) -> None:
        """Raise SharedGradients if another thread's running pass accumulates into one of ``tensors``."""
        reached = self.pass_gradients.tensors()
        if any(id(tensor) in reached for tensor in tensors):
            raise SharedGradients

    def scaled_elsewhere(self, scale: float) -> None:
        """A framework has multiplied the loss of the last pass by ``scale``, instead of the recipe."""
        self._under = scale

    def stepped(self, finite: bool, step: int, counts: bool = True) -> Skip | None:
        """Move the scale after step number ``step`` was made or skipped; returns the skip, or None.

        Several steps without a backward pass between them, as of several optimizers, move it once: down if one of them
        was skipped.
        """
        self.settle()
        reason = self.finite_cache.trouble or "gradients of another rank are not finite"
        self.finite_cache.forget()
        return self._move(finite, step, counts, reason)

    def stepped_unread(self, verdict: Verdict, step: int, counts: bool, told: Told) -> None:
        """As :meth:`stepped`, but done when the verdict is read, before the scale or the skips are used."""
        self.finite_cache.forget()
        self._awaited.append((verdict, step, counts, told))

    def settle(self) -> None:
        """Read the awaited verdicts and report them; not during a capture, in which nothing may be waited for."""
        if not self._awaited or capturing():
            return
        awaited, self._awaited = self._awaited, []  # emptied first: if the device has failed, none ever comes
        for verdict, step, counts, told in awaited:
            told(self._move(verdict.finite, step, counts, "gradients are not finite"))

    def _move(self, finite: bool, step: int, counts: bool, reason: str) -> Skip | None:
        skip = None if finite else Skip(step, self._under, reason, counts)
        self._skips = self._skips.next(skip)
        self._finite_in_a_row = self._finite_in_a_row + 1 if finite else 0
        self._last_skipped = not finite
        self._bad = self._bad or not finite
        self._loss_scale = self._at_pass.next(not self._bad)
        if finite:
            self.pass_scales.went_well()
        else:
            self.pass_scales.lower_graphs()
        return skip

    def restart(self) -> None:
        """Forget the skips: so far there was no step."""
        self.settle()
        self._skips = Skips()

    def lower(self) -> None:
        """Lower the scale for gradients that were not finite and will be computed again; no step is skipped."""
        self.finite_cache.forget()
        self._loss_scale = self._at_pass.next(False)

    @property
    def skipped(self) -> int:
        """Optimizer steps skipped so far."""
        return self.skips.count

    @property
    def last_skipped(self) -> bool:
        """Whether the last optimizer step was skipped."""
        self.settle()
        return self._last_skipped

    @property
    def stuck(self) -> bool:
        """Whether the scale can fall no further."""
        scale = self.loss_scale
        return not isinstance(scale, DynamicScale) or scale.at_floor

    def state(self) -> dict[str, float | int]:
        """The state for a checkpoint, as plain numbers, which ``weights_only=True`` loads."""
        finite_steps = self.loss_scale.finite_steps if isinstance(self.loss_scale, DynamicScale) else 0
        return {"loss_scale": self.value, "finite_steps": finite_steps, "skipped_steps": self.skipped}

    def restore(self, state: StateDict) -> None:
        """Go on with the state of a checkpoint; a scale that is not dynamic keeps its own value."""
        scale = self.loss_scale
        self._skips = Skips(before=int(state["skipped_steps"]))
        if isinstance(scale, DynamicScale):
            value = min(max(float(state["loss_scale"]), scale.floor), scale.ceiling)
            self.loss_scale = DynamicScale(
                value, scale.growth, scale.backoff, scale.interval, scale.floor, scale.ceiling,
                int(state["finite_steps"]), falls=None,
            )  # fmt: skip
