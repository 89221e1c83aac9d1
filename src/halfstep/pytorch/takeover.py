"""Puts a recipe into force in PyTorch. Every place that is touched is named in :meth:`Takeover.install`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from halfstep.pytorch import fp32_units, keep, spawning, torchscript
from halfstep.pytorch.already_made import AlreadyMade
from halfstep.pytorch.arithmetic import Arithmetic
from halfstep.pytorch.autocast import data_loading, gradient_hooks, own_amp
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.operands import Operands
from halfstep.pytorch.autocast.own_precision import OwnPrecision
from halfstep.pytorch.autocast.regions import Regions
from halfstep.pytorch.autocast.true_regions import TrueRegions
from halfstep.pytorch.fp32_units import Fp32Units
from halfstep.pytorch.loss_scaling import backward, hooks
from halfstep.pytorch.loss_scaling.manual_updates import ManualUpdates
from halfstep.pytorch.loss_scaling.outcomes import Outcomes
from halfstep.pytorch.loss_scaling.own_scaler import OwnScalers
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.statistics import Statistics
from halfstep.pytorch.loss_scaling.step import Steps
from halfstep.pytorch.patches import Patches, compile_nothing_alone
from halfstep.pytorch.recording.brief_look import BriefLook
from halfstep.pytorch.recording.communicated import Communicated
from halfstep.pytorch.recording.recorder import NullRecorder, Recorder
from halfstep.pytorch.recording.script_traits import ScriptTraits
from halfstep.pytorch.recording.step_sampler import StepSampler
from halfstep.pytorch.training import Training
from halfstep.pytorch.watching.graphs import Graphs
from halfstep.pytorch.watching.nan_origin import NanOrigin, NullNanOrigin
from halfstep.pytorch.watching.watch import NullWatch, Watch
from halfstep.pytorch.weights.seen import look_for_16_bit_weights
from halfstep.pytorch.weights.weights import Weights
from halfstep.record import Writer
from halfstep.takeover.base import Options, asked_of
from halfstep.takeover.base import Takeover as Face
from halfstep.takeover.looks import Looks


class Takeover(Training, Face):
    """A recipe in force in PyTorch, in this process.

    Attributes:
        arithmetic: what computes the recipe's numbers here.
        weights: the formats of weights.
        patches: what is replaced in PyTorch, and by adapters in the frameworks on top of it.
    """

    framework = "pytorch"

    def __init__(self, options: Options) -> None:
        started = time.perf_counter()
        super().__init__()
        self.options, write = options, options.writer.write
        recipe = self.recipe = options.recipe
        self.arithmetic = Arithmetic(options, self.announce)
        self.patches = Patches()
        self.manual_updates = ManualUpdates(recipe.guards, options.watch, self)
        self._looks = looks = Looks(write)
        self._step_sampler = StepSampler(self._optimizers, self.manual_updates, options, looks)
        self._brief_look = BriefLook(self._parameters, write, recipe.name, looks)
        recording = isinstance(options.writer, Writer)
        self.recorder = (
            Recorder(options.writer, self._step_sampler, looks, self._step_sampler.done)
            if recording
            else NullRecorder(self._brief_look)
        )
        self._on_backward = self.recorder.backward
        self.regions = self._regions()
        self._operands = Operands(self.regions)
        self.own_precision = OwnPrecision(
            self.write, self.regions.want, lambda: self.arithmetic.device == "cuda"
        )
        self.weights = Weights(
            recipe,
            self.arithmetic.dtype,
            self.regions,
            self._operands,
            self.own_precision.note,
            options.stop,
            self._tell,
            self.patches,
        )
        self._check_kept = self.weights.check_kept
        self.scaling = Scaling(recipe.loss_scale, recipe.compute == "fp16")
        self.statistics = Statistics()
        self._outcomes = Outcomes(recipe, self.scaling, self.statistics, self.recorder, options.stop)
        quiet = not recording or options.watch
        self.nan_origin = (
            NullNanOrigin() if quiet else NanOrigin(self.recorder.write, lambda: self.recorder.steps, looks)
        )
        self._steps = Steps(
            recipe, self.scaling, self.statistics, self.regions, self.recorder, self, options.watch
        )
        self.watch = self._watch(looks) if options.watch else NullWatch()
        self._script_traits = ScriptTraits(self.recorder.write, looks)
        self.install()
        self._seconds = time.perf_counter() - started
        self.announce()

    def _regions(self) -> NoRegions:
        """Autocast around models; the script's own precision needs none."""
        dtype = self.arithmetic.dtype
        if self.recipe.as_is:
            return NoRegions()
        kind = Regions if dtype is None or self.recipe.mixed else TrueRegions
        return kind(dtype or torch.float32, lambda kind: self.recorder.write("region", kind=kind))

    def _watch(self, looks: Looks) -> Watch:
        scaling = self.scaling
        return Watch(
            self.options.writer,
            lambda: self._steps.inside,
            lambda: scaling.value * scaling.above(),
            scaling.above,
            looks,
        )

    def announce(self) -> None:
        arithmetic = self.arithmetic
        on_cpu = arithmetic.device == "cpu"
        self.options.writer.write(
            "takeover",
            framework=self.framework,
            version=torch.__version__,
            ran_as=arithmetic.ran_as,
            **asked_of(self.recipe),
            fp32_units=sorted(arithmetic.fp32_units),
            software="PyTorch" if arithmetic.software_formats else None,
            software_formats=arithmetic.software_formats,
            lists=self.options.run.as_on if self.recipe.mixed and on_cpu else None,
            emulated=arithmetic.emulated,
            device=arithmetic.device,
            threads=torch.get_num_threads(),
            seconds=self._seconds,
        )

    def install(self) -> None:
        """Replace what has to be replaced, and nothing that the recipe does not need."""
        recipe, patches, note = self.recipe, self.patches, self.own_precision.note
        fewer_bits = self.own_precision.asks_for_fewer_bits
        compile_nothing_alone(patches)
        torchscript.find_originals(patches)
        if recipe.as_is:
            own_amp.watch_only(note, self.recorder.scaled, patches)
            look_for_16_bit_weights(note, patches)
            fp32_units.watch_only(fewer_bits, patches)
        else:
            spawning.refuse(self.options.stop, patches)
            OwnScalers(self.scaling).install(patches)
            own_amp.yield_to(self.regions, note, self._operands.let_meet, patches)
            tf32 = recipe.compute == "tf32" and not self.arithmetic.to_emulate
            Fp32Units(tf32, fewer_bits).install(patches)
        self.arithmetic.install()
        self.weights.install()
        if recipe.guards:
            self.statistics.install(patches)
        self.watch.install(patches)
        if self.options.graphs:
            Graphs(self.recorder.write, lambda: self.recorder.steps, self._looks).install(patches)
        self.regions.install(patches)
        self._operands.install()
        data_loading.outside(self.regions, patches)
        self._script_traits.install(patches)
        Communicated(self._tell).install(patches)
        if isinstance(self.options.writer, Writer):
            self._step_sampler.install(patches)
        parts = backward.Parts(recipe, self.scaling, self.statistics, self.regions, self.manual_updates, self)
        backward.install(parts, patches)
        if self.arithmetic.dtype is not None and not recipe.loss_scale.guards:
            gradient_hooks.install(patches)
        self._steps.install(patches)
        self.manual_updates.install(patches)

    def _tell(self, text: str) -> None:
        if not self.recipe.as_is:
            self.options.say(text)
        self.options.writer.write("warning", text=text)

    def close(self) -> None:
        looks = (self._step_sampler.close, self._brief_look.close)
        for end in (self.manual_updates.close, self.scaling.settle, *looks, self.recorder.close):
            try:
                end()
            except RuntimeError as error:  # a device that has failed gives no more answers
                reason = str(error).partition("\n")[0]
                self.write("warning", text=f"what was on its way from the device is lost: {reason}")

    def adopt(self) -> None:
        made = AlreadyMade.now()
        self._steps.adopt(made.optimizers)
        if not self.recipe.as_is:
            own_amp.adopt(made, self.regions.dtype, self.own_precision.note)
        self.manual_updates.adopt(made.optimizers)
        self.regions.adopt(made.optimizers)
        self.weights.adopt(made.optimizers)
        if self.recipe.guards:
            self.statistics.adopt(made.norms)
        if self.recipe.loss_scale.guards:
            hooks.adopt(self.scaling, made)
        elif self.arithmetic.dtype is not None:
            gradient_hooks.adopt(made.hooks)
        self.patches.follow_imports()
        _compile_anew()

    @property
    def scale_state(self) -> dict[str, float | int] | None:
        return self.scaling.state() if self.recipe.loss_scale.guards else None

    def restore_scale(self, state: dict[str, float | int]) -> None:
        self.scaling.restore(state)

    @property
    def cannot_be_undone(self) -> str:
        if _inside_our_work():
            return "this is inside a model's call, a backward pass or an optimizer's step; do it between two steps"
        if reason := self.weights.cannot_be_undone:
            return reason
        if covered := self.patches.covered():
            return f"something else was put in the place of {', '.join(covered)}; take that away first"
        return ""

    def remove(self) -> None:
        """Put PyTorch back as it was."""
        self._brief_look.close()
        self._step_sampler.close()
        self.watch.remove()
        self.regions.leave()
        self.patches.undo()
        self._steps.remove()
        for part in (self.arithmetic, self.weights, self._operands):
            part.remove()

    def disown(self) -> None:
        made = AlreadyMade.now()
        self._steps.disown(made.optimizers)
        own_amp.give_back(made)
        hooks.remove(made)
        keep.forget(made.kept)
        _compile_anew()

    def give_way(
        self, on_backward: Callable[[Sequence[Tensor]], None], check_kept: Callable[[], None]
    ) -> None:
        """Give up autocast: Keras trains on top of PyTorch, its layers cast by policies, and its optimizers step.

        Autocast beside the policies would cast what the script keeps in fp32. Products, TF32, the backward pass and the
        optimizers of ``torch.optim`` stay with this takeover.

        Args:
            on_backward: called with what a backward pass starts from.
            check_kept: called after the first step: patterns of ``keep=`` name Keras's layers.
        """
        self._check_kept = check_kept
        self.regions.leave()
        self.weights.after_first_step()
        self.manual_updates.active = False
        recorded = self._on_backward

        def both(outputs: Sequence[Tensor]) -> None:
            recorded(outputs)
            on_backward(outputs)

        self._on_backward = both


def _compile_anew() -> None:
    """Drop what is compiled: the precision is part of compiled functions and modules."""
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()


def _inside_our_work() -> bool:
    """Whether this thread is inside a call that a takeover has wrapped."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("halfstep.pytorch."):
            return True
    return False
