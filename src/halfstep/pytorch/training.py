"""A training under a recipe: at each of its moments it calls the parts, in order."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.errors import HalfstepError
from halfstep.precisions.recipes import Recipe
from halfstep.pytorch import devices
from halfstep.pytorch.arithmetic import Arithmetic
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.own_precision import OwnPrecision
from halfstep.pytorch.loss_scaling.engine import StepsInside, inside_backward
from halfstep.pytorch.loss_scaling.manual_updates import ManualUpdates
from halfstep.pytorch.loss_scaling.outcomes import Outcomes
from halfstep.pytorch.loss_scaling.pass_gradients import PassGradients
from halfstep.pytorch.loss_scaling.pending_flag import Verdict
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.statistics import Statistics
from halfstep.pytorch.loss_scaling.step import Steps
from halfstep.pytorch.moments import Moments
from halfstep.pytorch.recording.recorder import NullRecorder, Recorder
from halfstep.pytorch.recording.sample import parameters_of
from halfstep.pytorch.recording.script_traits import ScriptTraits
from halfstep.pytorch.recording.step_sampler import StepSampler
from halfstep.pytorch.watching.nan_origin import NanOrigin, NullNanOrigin
from halfstep.pytorch.watching.watch import NullWatch, Watch
from halfstep.pytorch.weights.weights import Weights
from halfstep.takeover.base import EnoughSteps, Options
from halfstep.takeover.identity import IdentitySet


class Training(Moments):
    """The moments, at which it calls the parts that :class:`~halfstep.pytorch.takeover.Takeover` makes."""

    options: Options
    recipe: Recipe
    arithmetic: Arithmetic
    regions: NoRegions
    own_precision: OwnPrecision
    recorder: Recorder | NullRecorder
    scaling: Scaling
    statistics: Statistics
    manual_updates: ManualUpdates
    nan_origin: NanOrigin | NullNanOrigin
    watch: Watch | NullWatch
    weights: Weights
    _steps: Steps
    _outcomes: Outcomes
    _script_traits: ScriptTraits
    _step_sampler: StepSampler
    #: raises UsageError where a pattern of ``keep=`` has matched nothing
    _check_kept: Callable[[], None]
    #: called with the losses of a backward pass
    _on_backward: Callable[[Sequence[Tensor]], None]

    def __init__(self) -> None:
        self._optimizers: IdentitySet[Optimizer] = IdentitySet()
        self._stepped_last: Callable[[], Optimizer | None] | None = None
        self._passes = StepsInside()

    @property
    def steps(self) -> int:
        return self.recorder.steps

    @property
    def skipped(self) -> int:
        return self.scaling.skipped

    @property
    def skipped_before(self) -> int:
        return self.scaling.skips.before

    @property
    def skipped_here(self) -> int:
        """How many of this process's own steps, of the optimizer that counts, were skipped."""
        return self.scaling.skips.counted

    @property
    def skipped_beside(self) -> int:
        return len(self.scaling.skips.since) - self.scaling.skips.counted

    @property
    def last_skipped(self) -> bool:
        """Whether the last optimizer step was skipped."""
        return self.scaling.last_skipped

    def _parameters(self) -> list[Tensor]:
        return parameters_of(self._optimizers) or self.manual_updates.parameters

    def write(self, event: str, **fields: Any) -> None:
        self.recorder.write(event, **fields)

    def scaled_by_hand(self, text: str) -> None:
        """A loss has a factor that looks like a loss scale of the script's; not noted if its scaler gave the factor."""
        if not (self.recipe.as_is and "GradScaler" in self.own_precision.seen):
            self.write("warning", text=text)

    def before_backward(self, outputs: Sequence[Tensor | GradientEdge], factor: float = 1.0) -> None:
        self.regions.begin_pass()
        self.begin_pass()
        self.manual_updates.about_to_pass(outputs)
        self._script_traits.backward()
        losses = [output for output in outputs if isinstance(output, Tensor)]
        self.arithmetic.first_pass(losses)
        self._on_backward(losses if factor == 1.0 else [loss.detach().double() / factor for loss in losses])
        self._step_sampler.begin_pass(losses)
        self.watch.backward_pass(True)
        self.nan_origin.before_backward(losses)

    def begin_pass(self) -> None:
        self.weights.begin_pass()
        if self.recipe.guards:
            self.scaling.begin_pass()
            self.statistics.begin_pass()

    def passed_by(self, pass_gradients: PassGradients) -> None:
        if self.statistics.kept:
            # With one optimizer every step is a step of all layers.
            self.statistics.came_by(pass_gradients.leaves(wanted=len(self._optimizers) > 1))

    def after_backward(self) -> None:
        self.regions.after_pass()
        self.watch.backward_pass(False)
        self._step_sampler.backward_done()
        self.manual_updates.passed()
        if self._passes.stepped_inside:
            self.end_if_enough()

    def before_step(self, optimizer: Optimizer) -> None:
        self.watch.before_step(optimizer)

    def after_step(self, optimizer: Optimizer, verdict: bool | Verdict) -> None:
        self.regions.after_step()
        last = self._stepped_last
        if last is None or optimizer is not last():
            self._stepped_last = weakref.ref(optimizer)
            self._optimizers.add(optimizer)
            if last is None:
                self._first_step()
        primary = self.recorder.is_primary(optimizer) and self._passes.steps_once()
        if isinstance(verdict, Verdict):
            self._outcomes.stepped_unread(verdict, primary, by=optimizer)
        else:
            self.watch.after_step(optimizer, verdict, primary)
            self.nan_origin.after_step(optimizer, verdict)
            self._outcomes.stepped(verdict, primary, by=optimizer)
        if primary and not inside_backward():  # inside, it is checked when the pass is over
            self.end_if_enough()

    def _first_step(self) -> None:
        """The first step is over: every model has been called, and the script's code around a step has run once."""
        if devices.accelerator() is not None:
            self.arithmetic.place(self._parameters())
        if self.arithmetic.device == "cuda":
            self.own_precision.record("PyTorch's defaults for products of fp32 numbers")
        self._script_traits.stepped()
        self.regions.after_first_step(self._optimizers)
        self.weights.after_first_step()
        try:
            self._check_kept()
        except HalfstepError as error:
            self.options.stop(error)

    def other_steps(self) -> AbstractContextManager[None]:
        """A context in which a library's steps for its own purposes are neither guarded nor counted."""
        return self._steps.left_alone()

    def manual_pass(self) -> None:
        self.regions.forget_casts()

    def manual_losses(self, losses: list[Tensor]) -> None:
        self.recorder.backward(losses)

    def after_manual_step(self, by: Any, finite: bool) -> None:
        self.watch.after_step(by, finite, True)
        self._outcomes.stepped(finite, counts=True, by=by)
        self.regions.after_step_by_hand()
        self.weights.after_first_step()

    def restart(self, drops: str) -> None:
        self.scaling.restart()
        self.recorder.restart()
        self.recorder.write("restart", drops=drops)

    def end_if_enough(self) -> None:
        if self.options.run.steps is not None and self.steps >= self.options.run.steps:
            raise EnoughSteps
