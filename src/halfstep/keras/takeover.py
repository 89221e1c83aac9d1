"""Puts a recipe into force in Keras. Every place that is touched is named in :meth:`Takeover.install`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras
from keras import DTypePolicy

from halfstep.errors import HalfstepError
from halfstep.keras.backends import base as backend
from halfstep.keras.backends.torch import Beneath, NullBeneath
from halfstep.keras.loops.fit import Trainers
from halfstep.keras.loss_scaling.extra_optimizers import Further, NullFurther
from halfstep.keras.loss_scaling.scaler import Scaler
from halfstep.keras.loss_scaling.statistics import NullStatistics, Statistics
from halfstep.keras.policies.loaded import Loaded
from halfstep.keras.policies.policy import Keep, Policies, policy_of
from halfstep.keras.policies.region import Region
from halfstep.keras.policies.variables import Weights
from halfstep.keras.recording.progress import Progress
from halfstep.keras.recording.sample import Jitted
from halfstep.keras.supported import ran_as, software
from halfstep.takeover.base import Options, asked_of
from halfstep.takeover.base import Takeover as Face
from halfstep.takeover.patches import Patches


class Takeover(Face):
    """A recipe in force in Keras, in this process.

    Args:
        options: how it is put into force.
        others: takeovers of frameworks that were imported before; PyTorch's works beneath Keras's on that backend.
    """

    framework = "keras"

    def __init__(self, options: Options, others: Sequence[Face] = ()) -> None:
        started = time.perf_counter()
        self.options = options
        self.recipe = options.recipe
        self.backend = backend.name()
        beneath = next((o for o in others if o.framework == "pytorch"), None)
        on_torch = beneath is not None and self.backend == "torch"
        self.beneath = Beneath(beneath) if on_torch else NullBeneath()
        self._patches = Patches()
        self._own_amp: set[str] = set()
        self._warned: set[str] = set()
        self._in_loop = False
        self.loops: Any = None
        self.device = backend.device()
        self.ran_as = ran_as(options, beneath)
        self.progress = Progress(self, options)
        self.recorder = self.progress.recorder
        self.statistics = Statistics(self._patches) if self.recipe.guards else NullStatistics()
        self.keep = Keep(self.recipe.keep, self._patches)
        self.scaler = Scaler(self)
        self.further = Further(self) if self.recipe.guards else NullFurther()
        self._trainers = Trainers(self)
        self.install()
        self._seconds = time.perf_counter() - started
        self.announce()

    def install(self) -> None:
        """Replace what has to be replaced, and nothing that the recipe does not need."""
        patches = self._patches
        policies = Policies(self.recipe, self.note_own_amp)
        policies.install(patches)
        Weights(self.recipe, self.note_own_amp).install(patches)
        if not self.recipe.as_is:
            backend.set_tf32(self.recipe.compute == "tf32")
            Loaded(self, policies).install(patches)
        if self.recipe.compute in ("bf16", "fp16"):
            Region().install(patches)
        self._trainers.install(patches)
        if self.backend == "tensorflow":
            from halfstep.keras.loops.tape import Tapes

            self.loops = Tapes(self)
            self.loops.install(patches)
            if self.recipe.compute in ("bf16", "fp16"):
                from halfstep.keras.policies.control_flow_tf import ControlFlow
                from halfstep.keras.policies.operands_tf import Operands

                narrow = DTypePolicy(policy_of(self.recipe)).compute_dtype
                Operands(narrow).install(patches)
                ControlFlow(narrow).install(patches)
        elif self.backend == "jax":
            from keras.src.backend.jax import trainer

            patches.wrap(trainer, "jit", self._jit)
            from halfstep.keras.loops.jax import JaxLoops

            self.loops = JaxLoops(self)
            self.loops.install(patches)
        elif isinstance(self.beneath, Beneath):
            from halfstep.keras.loops.torch import EagerLoops

            self.loops = EagerLoops(self, self.beneath.scaling)
            self.loops.install(patches)
            self.beneath.give_way(self.loops.about_to_pass)
        self.scaler.install(patches)
        self.further.install(patches)

    def _jit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def jit(function: Any, *args: Any, **kwargs: Any) -> Any:
            jitted = Jitted(original(function, *args, **kwargs))
            named = getattr(function, "__name__", "")
            return self.progress.sample.compiled(jitted) if named == "train_step" else jitted

        return jit

    def remove(self) -> None:
        """Put Keras back as it was (tests do this; a program ends with its recipe in force)."""
        self._patches.undo()

    @property
    def in_use(self) -> bool:
        """Whether the program has made a layer or an optimizer; TensorBoard, say, imports Keras for nothing."""
        kinds = (keras.Layer, keras.optimizers.Optimizer)
        return any(isinstance(thing, kinds) for thing in gc.get_objects())

    @property
    def steps(self) -> int:
        return self.recorder.steps

    @property
    def skipped(self) -> int:
        return self.recorder.skipped

    def announce(self) -> None:
        self.recorder.write(
            "takeover",
            framework=self.framework,
            backend=self.backend,
            version=keras.__version__,
            backend_version=backend.version(),
            ran_as=self.ran_as,
            software=software(self.recipe, self.backend),
            **({} if self.backend == "torch" else {"fp32_units": [], "lists": None}),
            **asked_of(self.recipe),
            emulated=self.beneath.emulated,
            device=self.device,
            loop=self._in_loop,
            seconds=self._seconds,
        )

    def write(self, event: str, **fields: Any) -> None:
        self.recorder.write(event, **fields)

    @property
    def no_step(self) -> str:
        return getattr(self.loops, "no_step", None) or super().no_step

    def close(self) -> None:
        self.progress.close()

    def note_own_amp(self, what: str) -> None:
        """The script has mixed precision of its own."""
        if what not in self._own_amp:
            self._own_amp.add(what)
            self.recorder.write("own_amp", what=what)

    def warn(self, text: str, of_record: bool = False) -> None:
        """Tell the user a sentence, once, and write it; one ``of_record`` is of use only to who reads that."""
        if text not in self._warned:
            self._warned.add(text)
            self.recorder.write("warning", text=text)
            if not of_record:
                self.options.say(f"warning: {text}")

    def refuse(self, error: HalfstepError) -> NoReturn:
        """End the program with a sentence, for what it does next cannot be done under the recipe."""
        self.options.halt(error)
        raise error

    @property
    def training(self) -> bool:
        """Whether a model's train function is running, or being traced."""
        return self._trainers.active

    @property
    def in_train_step(self) -> bool:
        """Whether a model's train_step is being traced, or running."""
        return self._trainers.step.seen is not None

    def model_scale(self) -> Any:
        """The scale of the optimizer of the model whose train_step is under way; None if it has none."""
        seen = self._trainers.step.seen
        return None if seen is None else seen.scale

    def compiled_optimizer(self) -> Any:
        """The optimizer with which the model was compiled whose train_step is under way; None outside, or if none."""
        return self._trainers.step.optimizer

    def took_pass(self) -> bool:
        """On JAX: whether the loss of the gradients that are about to be applied was scaled by ``jax.grad``."""
        return bool(self.loops.took_pass())

    def saw_loss(self, loss: Any) -> None:
        """The loss of the train_step under way, before scaling."""
        seen = self._trainers.step.seen
        if seen is not None and self.backend != "jax":
            seen.loss = backend.copied(backend.undivided(loss))

    def saw_pass(self, losses: Sequence[Any]) -> None:
        """A backward pass of a train_step starts from ``losses``: its loss, where Keras has not been told of one."""
        seen = self._trainers.step.seen
        own = backend.trace() is self._trainers.step.trace
        if seen is not None and own and seen.loss is None and losses and not self.scaler.pending:
            seen.loss = backend.copied(losses[0])

    def loop_goes_on(self) -> None:
        """In a PyTorch loop of the script's own the next step begins where this one ends."""
        if self.backend == "torch" and not self.training:
            self.statistics.keep()

    def loop_begins(self) -> None:
        """A loop of the script's own makes a step, or is being traced."""
        self._in_loop = True

    def loop_traced(self) -> None:
        """The graph under way contains a step of a loop of the script's own, with a tape."""
        self.framework = "tensorflow"
        self.loop_begins()
        self.progress.sample.trace_begins()
