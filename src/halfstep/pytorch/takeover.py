"""Puts a recipe into force in PyTorch. Every place that is touched is named in :meth:`Takeover.install`."""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.errors import HalfstepError, Unsupported
from halfstep.looks import Looks
from halfstep.precisions.loss_scale import Skip
from halfstep.pytorch import devices, fp32_units, keep, spawning
from halfstep.pytorch.already_made import AlreadyMade
from halfstep.pytorch.autocast import (
    beyond_range,
    data_loading,
    gradient_hooks,
    lists,
    mixed_operands,
    own_amp,
)
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.regions import Regions
from halfstep.pytorch.capabilities import Support, support
from halfstep.pytorch.dtypes import DTYPES
from halfstep.pytorch.fp32_units import Fp32Units
from halfstep.pytorch.keep import Keep
from halfstep.pytorch.loss_scaling import backward, scaled_pass
from halfstep.pytorch.loss_scaling.backward import inside_backward
from halfstep.pytorch.loss_scaling.manual_updates import ByHand
from halfstep.pytorch.loss_scaling.own_scaler import OwnScalers
from halfstep.pytorch.loss_scaling.pass_gradients import Reached
from halfstep.pytorch.loss_scaling.pending_flag import Verdict
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.statistics import Statistics
from halfstep.pytorch.loss_scaling.step import Steps, StepsInside
from halfstep.pytorch.moments import Moments
from halfstep.pytorch.native import builder as native
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products import cpp_kernel
from halfstep.pytorch.products.operations import Plan
from halfstep.pytorch.products.products import choose, install, plan
from halfstep.pytorch.recording.brief_look import BriefLook
from halfstep.pytorch.recording.communicated import Communicated
from halfstep.pytorch.recording.recorder import NullRecorder, Recorder
from halfstep.pytorch.recording.sample import parameters_of
from halfstep.pytorch.recording.script_traits import Habits
from halfstep.pytorch.recording.step_sampler import Looking
from halfstep.pytorch.true_16bit import SixteenBitWeights
from halfstep.pytorch.watching.graphs import Graphs
from halfstep.pytorch.watching.nan_origin import Began, NullBegan
from halfstep.pytorch.watching.watch import NullWatch, Watch
from halfstep.pytorch.weights.fp32_weights import Fp32Weights
from halfstep.pytorch.weights.only_fp32 import OnlyFp32
from halfstep.pytorch.weights.seen import look_for_16_bit_weights
from halfstep.record import Writer
from halfstep.takeover.base import (
    HOPELESS,
    EnoughSteps,
    GradientsOverflow,
    Options,
    asked_of,
    overflow_sentence,
)
from halfstep.takeover.base import Takeover as Face


class Takeover(Moments, Face):
    """A recipe in force in PyTorch, in this process.

    Attributes:
        recorder: counts the steps and records them.
        scaling: the loss scale in force.
        statistics: what a skipped step leaves as it was, beside weights and optimizer state.
        hold: makes the weights of a module fp32, where the recipe says so, before they are sharded or replicated.
        patches: what is replaced in PyTorch, and by adapters in the frameworks on top of it.
    """

    framework = "pytorch"

    def __init__(self, options: Options) -> None:
        started = time.perf_counter()
        self.options = options
        self.recipe = options.recipe
        self.device = devices.accelerator() or "cpu"
        self._placed = self.device == "cpu"
        self.support = self._supported()
        self.patches = Patches()
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._stepped_last: Callable[[], Optimizer | None] | None = None
        self._own_amp: set[str] = set()
        self._only_fp32: OnlyFp32 | None = None
        self._formats_meet = False
        self._passes = StepsInside()
        self._bad_in_a_row: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        self._undo: list[Callable[[], None]] = []
        self._16_bit_weights: SixteenBitWeights | None = None
        self._fp32_weights: Fp32Weights | None = None
        self.hold: Callable[[nn.Module], None] = lambda module: None
        self.by_hand = ByHand(self.recipe.guards, options.watch, self)
        self._looks = looks = Looks(options.writer.write)
        self._looking = Looking(self._optimizers, self.by_hand, options, looks)
        recording = isinstance(options.writer, Writer)
        self._brief_look = BriefLook(self._parameters, options.writer.write, self.recipe.name, looks)
        self.recorder = (
            Recorder(options.writer, self._looking, looks, self._looking.done)
            if recording
            else NullRecorder(self._brief_look)
        )
        dtype = self._dtype
        self._in_fp32_units = self._planned(dtype)
        self._prepare_kernels()
        self.regions = self._regions(dtype)
        self._on_backward: Callable[[Sequence[Tensor]], None] = self.recorder.backward
        self.scaling = Scaling(self.recipe.loss_scale, self.recipe.compute == "fp16")
        quiet = not recording or options.watch
        self.began = NullBegan() if quiet else Began(self.recorder.write, lambda: self.recorder.steps, looks)
        self.statistics = Statistics()
        self._steps = Steps(
            self.recipe, self.scaling, self.statistics, self.regions, self.recorder, self, options.watch
        )
        self.watch = self._watch(looks) if options.watch else NullWatch()
        self._habits = Habits(self.recorder.write, looks)
        self._keep = Keep(self.recipe.keep, self.patches, None if self.recipe.mixed else dtype)
        self.ran_as = self.recipe.name
        self.emulated = False
        self.install(dtype)
        self._seconds = time.perf_counter() - started
        self.announce()

    def _parameters(self) -> list[Tensor]:
        return parameters_of(self._optimizers) or self.by_hand.parameters

    @property
    def _dtype(self) -> torch.dtype | None:
        """The 16-bit dtype that the recipe computes in, if it is one."""
        return DTYPES[self.recipe.compute] if self.recipe.compute in ("bf16", "fp16") else None

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
        """Of this process's own steps that count, those of one optimizer."""
        return self.scaling.skips.counted

    @property
    def last_skipped(self) -> bool:
        """Whether the last optimizer step was skipped."""
        return self.scaling.last_skipped

    def announce(self) -> None:
        self.options.writer.write(
            "takeover",
            framework=self.framework,
            version=torch.__version__,
            ran_as=self.ran_as,
            **asked_of(self.recipe),
            fp32_units=sorted(self._in_fp32_units),
            software=None,
            lists=self.options.run.as_on if self.recipe.mixed and self.device == "cpu" else None,
            emulated=self.emulated,
            device=self.device,
            threads=torch.get_num_threads(),
            seconds=self._seconds,
        )

    def write(self, event: str, **fields: Any) -> None:
        self.recorder.write(event, **fields)

    def close(self) -> None:
        looks = (self._looking.close, self._brief_look.close)
        for end in (self.by_hand.close, self.scaling.settle, *looks, self.recorder.close):
            try:
                end()
            except RuntimeError as error:  # a device that has failed answers nothing any more
                reason = str(error).partition("\n")[0]
                self.write("warning", text=f"what was on its way from the device is lost: {reason}")

    def _supported(self) -> Support | None:
        """What this machine's units do for the recipe.

        Raises:
            Unsupported: it cannot be done here; the message has the reason.
        """
        if self.recipe.as_is:
            return None
        if self.options.run.as_on is not None and self.device not in ("cpu", "cuda"):
            raise Unsupported(
                f"--as-on cuda applies CUDA's autocast lists on a CPU, but this program uses {self.device}; hide "
                "that device from it, or leave the option out."
            )
        only_emulated = Support("impossible", "halfstep runs it only emulated")
        found = only_emulated if self.recipe.only_emulated else support(self.recipe.compute, self.device)
        if found.kind == "impossible" and not (self.options.run.emulate and self.device == "cpu"):
            raise Unsupported(self._refusal(found.reason))
        return found

    def _refusal(self, reason: str) -> str:
        sentence = f"Precision {self.recipe.name} cannot run here: {reason}"
        if self.device == "cpu":
            return f"{sentence}; --emulate rounds to it inside fp32 tensors."
        if self.options.run.emulate:
            return f"{sentence}, and emulation needs a CPU; hide the {self.device} device from the program."
        return f"{sentence}."

    def install(self, dtype: torch.dtype | None) -> None:
        """Replace what has to be replaced, and nothing that the recipe does not need."""
        recipe, patches = self.recipe, self.patches
        if recipe.as_is:
            own_amp.watch_only(self.note_own_amp, self.recorder.scaled, patches)
            look_for_16_bit_weights(self.note_own_amp, patches)
            fp32_units.watch_only(self._asks_for_fewer_bits, patches)
        else:
            spawning.refuse(self._stop, patches)
            OwnScalers(self.scaling).install(patches)
            own_amp.yield_to(self.regions, self.note_own_amp, self._let_meet, patches)
            tf32 = recipe.compute == "tf32" and not self._emulating
            Fp32Units(tf32, self._asks_for_fewer_bits).install(patches)
        if self._emulating:
            self._emulate()
        if dtype is not None and recipe.mixed:
            self._one_autocast_list()
        if dtype is not None and self.support is not None and self._in_fp32_units:
            self._install_products(dtype, self.support)
        if dtype is not None and not recipe.mixed:
            self._16_bit_weights = SixteenBitWeights(dtype, self._keep.look, self.note_own_amp)
            self._16_bit_weights.install(patches)
        else:
            self._keep.install()
        if recipe.weights == "fp32":
            weights = Fp32Weights(
                dtype if recipe.mixed else None,
                self._keep.look,
                self.note_own_amp,
                self._promote,
                self.regions.without_modules,
            )
            weights.install(patches)
            if self.regions.dtype is torch.float32:
                self._only_fp32 = OnlyFp32(patches, weights.found, weights.saves)
                self._undo.append(self._only_fp32.remove)
            self.regions.on_entry(weights.entered)
            self.hold = weights.hold
            self._fp32_weights = weights
        if recipe.guards:
            self.statistics.install(patches)
        self.watch.install(patches)
        if self.options.graphs:
            Graphs(self.recorder.write, lambda: self.recorder.steps, self._looks).install(patches)
        self.regions.install(patches)
        if isinstance(self.regions, Regions):
            self._undo.append(mixed_operands.promote(self.regions.devices).remove)
            self._undo.append(beyond_range.hold(self.regions.devices).remove)
        data_loading.outside(self.regions, patches)
        self._habits.install(patches)
        Communicated(self._tell_communicated).install(patches)
        if isinstance(self.options.writer, Writer):
            self._looking.install(patches)
        parts = backward.Parts(self.recipe, self.scaling, self.statistics, self.regions, self.by_hand, self)
        backward.install(parts, patches)
        if dtype is not None and not recipe.loss_scale.guards:
            gradient_hooks.install(patches)
        self._steps.install(patches)
        self.by_hand.install(patches)

    def _regions(self, dtype: torch.dtype | None) -> NoRegions:
        """Autocast around models; recipes with 16-bit weights, and the script's own precision, need none."""
        if self.recipe.as_is or not (dtype is None or self.recipe.mixed):
            return NoRegions()
        return Regions(dtype or torch.float32, lambda kind: self.recorder.write("region", kind=kind))

    def _let_meet(self) -> None:
        """16-bit numbers may meet fp32 ones outside of regions. By PyTorch's own kernels: ours take time per call."""
        if isinstance(self.regions, Regions) and not self.regions.promotes:
            self.regions.promote()

    def _promote(self) -> None:
        """The program holds 16-bit numbers: they are promoted where they meet fp32, or where all is to be fp32."""
        self._let_meet()
        if self._only_fp32 is not None:
            self._only_fp32.begin()
        elif isinstance(self.regions, Regions) and not self._formats_meet:
            self._formats_meet = True
            self._undo.append(
                mixed_operands.let_formats_meet(self.regions.devices, self.regions.dtype).remove
            )

    def _watch(self, looks: Looks) -> Watch:
        return Watch(self.options.writer, lambda: self._steps.inside, lambda: self.scaling.value, looks)

    @property
    def _emulating(self) -> bool:
        return self.support is not None and self.support.kind == "impossible"

    def _emulate(self) -> None:
        """Round the operands of every product; a bare import would cost programs that need none of it."""
        from halfstep.pytorch.emulation.emulate import Emulated
        from halfstep.pytorch.emulation.ops import Emulation

        recipe = self.recipe
        self._undo.append(Emulated(Emulation(recipe.name, recipe.compute, recipe.gradients)).remove)
        self.emulated = True
        self.ran_as = f"{recipe.described}, emulated in fp32"

    def _one_autocast_list(self) -> None:
        as_on_cuda = self.options.run.as_on is not None and self.device == "cpu"
        self._undo.append(lists.apply(as_on_cuda).remove)
        if as_on_cuda:
            self.ran_as = f"{self.recipe.name} with CUDA's autocast lists"

    def _place(self, tensors: Sequence[Tensor]) -> None:
        """The program trains where these are: beside a GPU that may be the CPU, whose products are ours to choose."""
        kinds = {tensor.device.type for tensor in tensors}
        if len(kinds) != 1 or kinds == {self.device}:
            return
        (self.device,) = kinds
        try:
            self.support = self._supported()
        except Unsupported as error:
            self._stop(error)
        dtype = self._dtype
        if self.device == "cpu" and dtype is not None and self.support is not None:
            self._in_fp32_units = self._planned(dtype)
            self._prepare_kernels()
            if self._in_fp32_units:
                self._install_products(dtype, self.support)
            if self.recipe.mixed and self.options.run.as_on is not None:
                self._one_autocast_list()
        self.announce()

    def _planned(self, dtype: torch.dtype | None) -> Plan:
        """The products that are to be computed in fp32 units."""
        on_cpu = dtype is not None and self.support is not None and self.device == "cpu"
        return plan([dtype], self.options.run.products) if dtype is not None and on_cpu else {}

    def _sources(self) -> list[Path]:
        """What has to be compiled once, before the recipe can be put in force."""
        scaled = scaled_pass.SOURCES if self.recipe.loss_scale.guards else ()
        return [*scaled, *(cpp_kernel.SOURCES if self._in_fp32_units else ())]

    def _prepare_kernels(self) -> None:
        why = native.prepare(self._sources())
        if why:
            text = f"the kernels in C and C++ cannot be had ({why}): PyTorch's operations do their work, more slowly"
            self.options.say(text)
            self.options.writer.write("warning", text=text)

    def _tell_communicated(self, text: str) -> None:
        if not self.recipe.as_is:
            self.options.say(text)
        self.options.writer.write("warning", text=text)

    def _install_products(self, dtype: torch.dtype, found: Support) -> None:
        """Products in fp32 units, all of them or the kinds that this CPU's 16-bit units are slow at."""
        mode = self.options.run.products
        self._undo.append(install([dtype], mode).remove)
        what = (
            "products"
            if choose(mode, found)
            else " and ".join(kind.replace("_", " ") for kind in sorted(self._in_fp32_units))
        )
        self.ran_as = f"{self.ran_as}, {what} in fp32 units"

    def adopt(self) -> None:
        made = AlreadyMade.now()
        self._steps.adopt(made.optimizers)
        if not self.recipe.as_is:
            own_amp.adopt(made, self.regions.dtype, self.note_own_amp)
        self.by_hand.adopt(made.optimizers)
        self.regions.adopt(made.optimizers)
        for weights in (self._16_bit_weights, self._fp32_weights):
            if weights is not None:
                weights.adopt(made.optimizers)
        if self.recipe.guards:
            self.statistics.adopt(made.norms)
        if self.recipe.loss_scale.guards:
            backward.adopt_hooks(self.scaling, made)
        elif self._dtype is not None:
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
        if self._16_bit_weights is not None and self._16_bit_weights.has_converted:
            return "it has made the weights of a model 16-bit, and their other bits are gone; restart the program"
        if covered := self.patches.covered():
            return f"something else was put in the place of {', '.join(covered)}; take that away first"
        return ""

    def remove(self) -> None:
        """Put PyTorch back as it was."""
        self._brief_look.close()
        self._looking.close()
        self.watch.remove()
        self.regions.leave()
        self.patches.undo()
        self._steps.remove()
        for undo in self._undo:
            undo()

    def disown(self) -> None:
        made = AlreadyMade.now()
        self._steps.disown(made.optimizers)
        own_amp.give_back(made)
        backward.remove_hooks(made)
        keep.forget(made.kept)
        _compile_anew()

    def give_way(self, on_backward: Callable[[Sequence[Tensor]], None]) -> None:
        """Keras trains on top of PyTorch: its layers cast by their policies, and its optimizers' steps are its own.

        Autocast beside that would cast what the script keeps in fp32. Products, TF32, the backward pass and the
        optimizers of ``torch.optim`` stay with this takeover; what a pass starts from is told to ``on_backward``, too.
        """
        self.regions.leave()
        if self._only_fp32 is not None:
            self._only_fp32.after_first_step()
        self.by_hand.active = False
        recorded = self._on_backward

        def both(outputs: Sequence[Tensor]) -> None:
            recorded(outputs)
            on_backward(outputs)

        self._on_backward = both

    def scaled_by_hand(self, text: str) -> None:
        """A loss has a factor that is taken for a loss scale of the script's; not told where its scaler gave it one."""
        if not (self.recipe.as_is and "GradScaler" in self._own_amp):
            self.write("warning", text=text)

    def before_backward(self, outputs: Sequence[Tensor | GradientEdge], factor: float = 1.0) -> None:
        self.regions.begin_pass()
        self.begin_pass()
        self.by_hand.about_to_pass(outputs)
        self._habits.backward()
        losses = [output for output in outputs if isinstance(output, Tensor)]
        if not self._placed:
            self._placed = True
            self._place(losses)
        self._on_backward(losses if factor == 1.0 else [loss.detach().double() / factor for loss in losses])
        self._looking.begin_pass(losses)
        self.watch.backward_pass(True)
        self.began.before_backward(losses)

    def begin_pass(self) -> None:
        if self.recipe.guards:
            self.scaling.begin_pass()
            self.statistics.begin_pass()

    def passed_by(self, reached: Reached) -> None:
        if self.statistics.kept:
            # With one optimizer all steps are of all layers.
            self.statistics.came_by(reached.leaves(wanted=len(self._optimizers) > 1))

    def after_backward(self) -> None:
        self.regions.after_pass()
        self.watch.backward_pass(False)
        self._looking.backward_done()
        self.by_hand.passed()
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
            self._stepped_unread(verdict, primary, optimizer)
        else:
            self.watch.after_step(optimizer, verdict, primary)
            self.began.after_step(optimizer, verdict)
            self.stepped(verdict, primary, by=optimizer)
        if primary and not inside_backward():  # else when the pass is over
            self.end_if_enough()

    def _first_step(self) -> None:
        """Every model has been called, and whatever the script does around a step has been seen once."""
        if devices.accelerator() is not None:
            self._place(self._parameters())
        if self.device == "cuda":
            self._note("PyTorch's defaults for products of fp32 numbers")
        self._habits.stepped()
        self.regions.after_first_step(self._optimizers)
        if self._only_fp32 is not None:
            self._only_fp32.after_first_step()
        try:
            self._keep.stepped()
        except HalfstepError as error:
            self._stop(error)

    def other_steps(self) -> AbstractContextManager[None]:
        """Steps that a library makes for its own ends, inside this context, are neither guarded nor counted."""
        return self._steps.left_alone()

    def stepped(self, finite: bool, counts: bool, by: object) -> None:
        """Weights have been updated, or kept from it; ``counts``: it is one of the program's steps.

        Raises:
            GradientsOverflow: too many steps ``by`` the same optimizer were kept from it in a row, and the scale can
                fall no further.
        """
        scale, guards = self.scaling.last_value, self.recipe.guards
        if guards:
            self.statistics.stepped(finite)
        if guards or not finite:
            self._told(by, self.scaling.stepped(finite, self._index(counts), counts))
        if counts:
            self.recorder.step(not finite, scale)
        if guards and self._bad_in_a_row.get(by, 0) >= HOPELESS and self.scaling.stuck:
            started = self.recipe.loss_scale.value
            sentence = overflow_sentence(self.recipe.compute, self.scaling.value, started)
            self._stop(GradientsOverflow(sentence))

    def _stepped_unread(self, verdict: Verdict, counts: bool, by: Optimizer) -> None:
        """As :meth:`stepped`; hopeless it cannot become: bad steps in a row are read at once."""
        self.scaling.stepped_unread(verdict, self._index(counts), counts, functools.partial(self._told, by))
        if counts:
            self.recorder.step(verdict, self.scaling.last_value)

    def _index(self, counts: bool) -> int:
        """The number of the program's step in which an optimizer steps: others do so after the one that counts."""
        return self.recorder.steps if counts else max(self.recorder.steps - 1, 0)

    def _told(self, by: object, skip: Skip | None) -> None:
        """Whether the last step was made is known."""
        if skip is None:
            if self._bad_in_a_row:
                self._bad_in_a_row.pop(by, None)
        else:
            self._bad_in_a_row[by] = self._bad_in_a_row.get(by, 0) + 1
            self.recorder.write("skip", **asdict(skip))

    def manual_pass(self) -> None:
        self.regions.forget_casts()

    def manual_losses(self, losses: list[Tensor]) -> None:
        self.recorder.backward(losses)

    def after_manual_step(self, by: Any, finite: bool) -> None:
        self.watch.after_step(by, finite, True)
        self.stepped(finite, counts=True, by=by)
        self.regions.after_step_by_hand()
        if self._only_fp32 is not None:
            self._only_fp32.after_first_step()

    def restart(self, drops: str) -> None:
        self.scaling.restart()
        self.recorder.restart()
        self.recorder.write("restart", drops=drops)

    def end_if_enough(self) -> None:
        if self.options.run.steps is not None and self.steps >= self.options.run.steps:
            raise EnoughSteps

    def _stop(self, error: HalfstepError) -> NoReturn:
        self.options.halt(error)
        raise error

    def note_own_amp(self, what: str, asks: str | None = None) -> None:
        """The script has mixed precision of its own, which ``asks`` for a format: ``as-is`` becomes a row."""
        if self._note(what, asks):
            self.regions.want()

    def _note(self, what: str, asks: str | None = None) -> bool:
        """Record what the script has of precision itself; tells whether that was not known yet."""
        if what in self._own_amp:
            return False
        self._own_amp.add(what)
        self.recorder.write("own_amp", what=what, **({} if asks is None else {"asks": asks}))
        return True

    def _asks_for_fewer_bits(self, what: str, value: Any) -> None:
        """The script lets products of fp32 numbers run in units of fewer bits, where this machine has such."""
        if self.device == "cuda" or (value in ("bf16", "medium") and torch.cpu._is_amx_tile_supported()):
            self._note(what)


def _compile_anew() -> None:
    """Compiled functions and modules have a precision compiled into them."""
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()


def _inside_our_work() -> bool:
    """Whether this thread is inside of a call that a takeover has wrapped."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith("halfstep.pytorch."):
            return True
    return False
