"""Optimizer steps: outside autocast, skipped where the gradients are not finite, counted and recorded.

``Optimizer.profile_hook_step`` is where PyTorch wraps the ``step`` of every optimizer class when its first
instance is made. Global step hooks would see the same steps, but cannot keep one from being made.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import profiler as autograd_profiler
from torch.compiler import is_compiling
from torch.optim import Optimizer

from halfstep.pytorch.devices import capturing, has_ranks
from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.loss_scaling.gradients import gradients_of
from halfstep.pytorch.loss_scaling.pending_flag import Readiness, Verdict, refuse_capture
from halfstep.pytorch.loss_scaling.saved_scale import save_scale
from halfstep.pytorch.loss_scaling.sharded import agreed
from halfstep.pytorch.loss_scaling.snapshot import is_lbfgs, may_evaluate_again, snapshot
from halfstep.pytorch.loss_scaling.step_wrappers import classes_with_a_wrapped_step, let_schedulers_call
from halfstep.pytorch.patches import Patches, itself_not_traced, outside_compiler
from halfstep.pytorch.recording.timeline import CLOSURE, OPTIMIZER_STEP

if TYPE_CHECKING:
    from halfstep.precisions.recipes import Recipe
    from halfstep.pytorch.autocast.no_regions import NoRegions
    from halfstep.pytorch.loss_scaling.scale import Scaling
    from halfstep.pytorch.loss_scaling.statistics import Statistics
    from halfstep.pytorch.moments import Moments
    from halfstep.pytorch.recording.recorder import NullRecorder, Recorder


class _Skipped(Exception):
    """Ends an optimizer's step from inside its closure."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss


class _Thread(threading.local):
    """Whether a thread is inside an optimizer's arithmetic."""

    inside = False


class Steps:
    """What happens around every ``optimizer.step()``."""

    def __init__(
        self,
        recipe: Recipe,
        scaling: Scaling,
        statistics: Statistics,
        regions: NoRegions,
        recorder: Recorder | NullRecorder,
        moments: Moments,
        watched: bool,
    ) -> None:
        self._recipe, self._guards = recipe, recipe.guards
        self._scaling, self._statistics = scaling, statistics
        self._regions, self._recorder = regions, recorder
        self._moments, self._watched = moments, watched
        self._ready = Readiness()
        self._thread = _Thread()
        self._removed = False
        self._wrapped: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()

    @property
    def inside(self) -> bool:
        """Whether this thread is inside an optimizer's arithmetic (not in its closure)."""
        return self._thread.inside

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """A context in which steps of this thread are not the program's: neither guarded nor counted."""
        before, self._thread.inside = self.inside, True
        try:
            yield
        finally:
            self._thread.inside = before

    def install(self, patches: Patches) -> None:
        """Wrap the step of every optimizer class made from now on, and ``state_dict`` where a scale rides in it."""
        patches.set(Optimizer, "profile_hook_step", staticmethod(self._wrapping(Optimizer.profile_hook_step)))
        for cls in classes_with_a_wrapped_step():
            patches.set(cls, "step", self._around(cls.step))
        if self._recipe.loss_scale.guards:
            save_scale(self._scaling, patches)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Let schedulers of existing optimizers, which have remembered the step of the class, call the wrapped step."""
        let_schedulers_call(optimizers, {self._plain(step): step for step in self._wrapped})

    def remove(self) -> None:
        """Give classes PyTorch's own step back; called when the patches are undone."""
        self._removed = True
        for cls in classes_with_a_wrapped_step():
            if cls.step in self._wrapped:
                setattr(cls, "step", self._plain(cls.step))  # noqa: B010
                vars(cls.step)["hooked"] = True

    def disown(self, optimizers: Iterable[Optimizer]) -> None:
        """Let schedulers call PyTorch's own step again."""
        let_schedulers_call(optimizers, {step: self._plain(step) for step in self._wrapped})

    def _plain(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """PyTorch's own step, around which halfstep's wrappers stand."""
        plain: Callable[..., Any] = inspect.unwrap(step, stop=lambda inner: inner not in self._wrapped)
        return plain

    def _wrapping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
            return self._around(original(func))

        return profile_hook_step

    def _around(self, stepping: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stepping)
        def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or self._thread.inside or self._removed:
                return stepping(optimizer, *args, **kwargs)
            return outside_compiler(self._step, stepping, optimizer, args, kwargs)

        # Whether a step is skipped is known only at run time; the step itself is compiled if the program compiles it.
        itself_not_traced(step)
        self._wrapped.add(step)
        return step

    def _step(self, step: Callable[..., Any], optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._moments.before_step(optimizer)
        step = _named_by(optimizer, step)
        self._thread.inside = True
        try:
            with self._regions.paused():
                if capturing():
                    return self._captured(step, optimizer, args, kwargs)
                if not self._scaling.active:
                    verdict, result = self._guarded(step, optimizer, args, kwargs)
                else:  # a hook of the running pass makes it
                    parameters = [p for group in optimizer.param_groups for p in group["params"]]
                    with self._scaling.pass_gradients.in_true_unit(parameters):
                        verdict, result = self._guarded(step, optimizer, args, kwargs)
        finally:
            self._thread.inside = False
        self._moments.after_step(optimizer, verdict)
        return result

    def _guarded(
        self, step: Callable[..., Any], optimizer: Optimizer, args: Any, kwargs: Any
    ) -> tuple[bool | Verdict, Any]:
        closure = kwargs["closure"] if "closure" in kwargs else args[0] if args else None
        if callable(closure):
            return self._with_closure(step, optimizer, closure, args, kwargs)
        if not self._guards:
            return True, step(optimizer, *args, **kwargs)
        if self._scaling.finite_cache.finite_of(optimizer):
            allowed = self._allowed(optimizer, True)
            return allowed, step(optimizer, *args, **kwargs) if allowed else None
        gradients = gradients_of(optimizer)
        if self._may_read_late and self._ready.may_wait(optimizer, gradients):
            verdict = self._scaling.finite_cache.verdict(gradients)
            return verdict, _skipping_by_itself(step, optimizer, verdict.found, args, kwargs)
        if not self._finite(optimizer, gradients):
            return False, None
        result = step(optimizer, *args, **kwargs)
        self._ready.made(optimizer, gradients)
        return True, result

    @property
    def _may_read_late(self) -> bool:
        """Whether the host may learn after the next step that it was skipped.

        It may not if running statistics have to be restored before the next forward pass, if every step is looked at,
        or while the loss scale is being found: a repeated pass needs the gradients of a bad one.
        """
        scaling = self._scaling
        return scaling.calm and not scaling.active and not self._statistics.kept and not self._watched

    def _finite(self, optimizer: Optimizer, gradients: list[Tensor]) -> bool:
        return self._allowed(optimizer, self._scaling.finite_cache.finite(gradients))

    def _allowed(self, optimizer: Optimizer, finite: bool) -> bool:
        """Whether a step may be made; ``finite``: whether its gradients are finite on this rank.

        Raises:
            SharedGradients: another thread is in a pass into one of them.
        """
        scaling = self._scaling
        if scaling.active and not inside_backward():  # inside, it is a hook of that very pass
            scaling.refuse_shared(p for group in optimizer.param_groups for p in group["params"])
        return agreed(finite, optimizer)

    def _captured(self, step: Callable[..., Any], optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Make a step that becomes part of a CUDA graph: all its work has to stay on the device.

        Raises:
            Captured: replays of the graph would not skip bad steps, or would not move the scale.
        """
        self._recorder.captured()
        if not self._guards:
            return step(optimizer, *args, **kwargs)
        scaling = self._scaling
        refuse_capture(scaling.loss_scale, optimizer)
        found = scaling.finite_cache.found_in_graph(gradients_of(optimizer))
        return _skipping_by_itself(step, optimizer, found, args, kwargs)

    def _with_closure(
        self,
        step: Callable[..., Any],
        optimizer: Optimizer,
        closure: Callable[[], Any],
        args: Any,
        kwargs: Any,
    ) -> tuple[bool, Any]:
        """Make a step whose closure computes the gradients; LBFGS calls it many times."""
        before: list[Callable[[], None]] = []

        @functools.wraps(closure)
        def guarded() -> Any:
            statistics = self._statistics.now() if is_lbfgs(optimizer) else None
            loss = self._evaluated(closure)
            while self._guards and not self._finite(optimizer, gradients_of(optimizer)):
                if statistics is None or not self._may_be_the_scales_fault(loss):
                    raise _Skipped(loss)
                statistics.put_back()
                self._scaling.lower()
                loss = self._evaluated(closure)
            if self._guards and not before and may_evaluate_again(optimizer):
                before.append(snapshot(optimizer))
            return loss

        if "closure" in kwargs:
            kwargs = kwargs | {"closure": guarded}
        else:
            args = (guarded, *args[1:])
        try:
            return True, step(optimizer, *args, **kwargs)
        except _Skipped as skipped:
            for restore in before:
                restore()
            return False, skipped.loss

    def _evaluated(self, closure: Callable[[], Any]) -> Any:
        """Run the program's ``closure`` under the recipe; returns its result."""
        self._thread.inside = False
        try:
            with self._regions.resumed(), _named():
                loss = closure()
        finally:
            self._thread.inside = True
        self._recorder.closure_done()
        return loss

    def _may_be_the_scales_fault(self, loss: Any) -> bool:
        """Whether a lower scale may make the gradients finite.

        A loss that is not finite has no gradients at any scale. Ranks do not tell each other their losses.
        """
        if self._scaling.stuck:
            return False
        alone = not has_ranks()
        return alone and math.isfinite(loss.detach() if isinstance(loss, Tensor) else loss)


def _skipping_by_itself(
    step: Callable[..., Any], optimizer: Any, found: Tensor, args: Any, kwargs: Any
) -> Any:
    """Make a step of a fused optimizer, whose kernel writes nothing if ``found`` is 1; gradients are unscaled."""
    optimizer.grad_scale, optimizer.found_inf = None, found
    try:
        return step(optimizer, *args, **kwargs)
    finally:
        del optimizer.grad_scale, optimizer.found_inf


def _named() -> AbstractContextManager[Any]:
    """A context that names a closure's work for the profiler: it is not the optimizer's."""
    named = autograd_profiler._is_profiler_enabled
    return torch.profiler.record_function(CLOSURE) if named else nullcontext()


def _named_by(optimizer: Optimizer, step: Callable[..., Any]) -> Callable[..., Any]:
    """``step``, named for the profiler as PyTorch names it, which compilers leave out."""
    if not autograd_profiler._is_profiler_enabled:
        return step

    def named(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(f"{OPTIMIZER_STEP}step#{type(optimizer).__name__}.step"):
            return step(*args, **kwargs)

    return named
