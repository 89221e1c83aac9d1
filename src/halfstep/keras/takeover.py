"""Puts a recipe into force in Keras. Every place that is touched is named in :meth:`Takeover.install`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from halfstep.errors import HalfstepError, Unsupported
from halfstep.keras import backend
from halfstep.keras.capabilities import support
from halfstep.keras.further import Further, NullFurther
from halfstep.keras.loaded import Loaded
from halfstep.keras.policy import Keep, set_policy
from halfstep.keras.recorder import Recorder, Seen
from halfstep.keras.sample import NO_ACTIVATIONS, NO_TIMES, Jitted, Sample, memory_of
from halfstep.keras.scaler import Scaler
from halfstep.keras.statistics import NullStatistics, Statistics
from halfstep.keras.trainer import Trainers
from halfstep.loss_scale import DynamicScale, LossScale, NoScale, StaticScale
from halfstep.patches import Patches
from halfstep.record import Writer
from halfstep.takeover import (
    HOPELESS,
    SAMPLED_STEP,
    EnoughSteps,
    GradientsOverflow,
    Options,
    overflow_sentence,
)
from halfstep.takeover import Takeover as Face


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
        self._beneath: Any = next((o for o in others if o.framework == "pytorch"), None)
        self._patches = Patches()
        self._own_amp: set[str] = set()
        self._warned: set[str] = set()
        self._ending: BaseException | None = None
        self._in_a_row = 0
        self._in_loop = False
        self._model: Any = None
        self._sample = Sample()
        self._batch: int | None = None
        self._loops: Any = None
        self._resting: LossScale | None = None
        self._outside: LossScale | None = None
        self.device = backend.device()
        self.ran_as = self._supported()
        self.recorder = Recorder(options.writer, self.device != "cpu", self._read)
        self.statistics = Statistics(self._patches) if self.recipe.guards else NullStatistics()
        self._keep = Keep(self.recipe.keep, self._patches)
        self.scaler = Scaler(self)
        self.further = Further(self) if self.recipe.guards else NullFurther()
        self._trainers = Trainers(self)
        self.install()
        self._seconds = time.perf_counter() - started
        self.announce()

    def _supported(self) -> str:
        """What the recipe runs as here, in words.

        Raises:
            Unsupported: it cannot be done here; the message has the reason.
        """
        name = backend.NAMES.get(self.backend)
        if name is None:
            raise Unsupported(
                f"Keras runs on {self.backend} here, where halfstep cannot put a precision into force; set "
                "KERAS_BACKEND to tensorflow, torch or jax."
            )
        if self.backend == "torch":
            return self.recipe.name if self._beneath is None else str(self._beneath.ran_as)
        if self.recipe.as_is:
            return self.recipe.name
        self._refuse_what_is_pytorchs(name)
        found = support(self.recipe.compute, self.backend)
        if found["kind"] == "impossible":
            raise Unsupported(f"Precision {self.recipe.name} cannot run here: {found['reason']}.")
        software = f", {name}'s own products in software" if found["kind"] == "emulated" else ""
        return f"{self.recipe.name}{software}"

    def _refuse_what_is_pytorchs(self, name: str) -> None:
        """Raise for options that work in PyTorch alone."""
        options, precision = self.options, self.recipe
        sixteen = precision.compute in ("bf16", "fp16")
        if precision.only_emulated:
            raise Unsupported(
                f"Precision {precision.name} cannot run here: halfstep emulates it in PyTorch, not in {name}."
            )
        if options.products == "fp32" and sixteen:
            raise Unsupported(
                f"--products fp32 is for PyTorch: {name} computes {precision.compute} products itself; "
                "leave the option away."
            )
        if options.as_on is not None and sixteen:
            raise Unsupported(
                f"--as-on {options.as_on} is for PyTorch: in Keras every layer has a policy, which is the same on "
                "every device; leave the option away."
            )
        if options.watch:
            raise Unsupported(f"A diagnosis looks into PyTorch, not into {name}; set KERAS_BACKEND to torch.")

    def install(self) -> None:
        """Replace what has to be replaced, and nothing that the recipe does not need."""
        patches = self._patches
        set_policy(self.recipe, self.note_own_amp, patches)
        if not self.recipe.as_is:
            backend.set_tf32(self.recipe.compute == "tf32")
            Loaded(self).install(patches)
        self._trainers.install(patches)
        if self.backend == "tensorflow":
            from halfstep.keras.tape import Tapes

            self._loops = Tapes(self)
            self._loops.install(patches)
        elif self.backend == "jax":
            from keras.src.backend.jax import trainer

            patches.wrap(trainer, "jit", self._jit)
            from halfstep.keras.jax_loops import JaxLoops

            self._loops = JaxLoops(self)
            self._loops.install(patches)
        elif self._beneath is not None:
            from halfstep.keras.eager import EagerLoops

            self._loops = EagerLoops(self, self._beneath.scaling)
            self._loops.install(patches)
            self._beneath.give_way(self._loops.about_to_pass)
        self.scaler.install(patches)
        self.further.install(patches)

    def _jit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def jit(function: Any, *args: Any, **kwargs: Any) -> Any:
            jitted = Jitted(original(function, *args, **kwargs))
            named = getattr(function, "__name__", "")
            return self._sample.compiled(jitted) if named == "train_step" else jitted

        return jit

    def remove(self) -> None:
        """Put Keras back as it was (tests do this; a program ends with its recipe in force)."""
        self._patches.undo()

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
            emulated=self._beneath is not None and self.backend == "torch" and self._beneath.emulated,
            device=self.device,
            seconds=self._seconds,
        )

    def write(self, event: str, **fields: Any) -> None:
        self.recorder.write(event, **fields)

    @property
    def no_step(self) -> str:
        return getattr(self._loops, "no_step", None) or super().no_step

    def close(self) -> None:
        if self.backend == "jax":
            self._ending = None
            self.options.steps = None
            self._loops.read()
        self.recorder.close()

    def note_own_amp(self, what: str) -> None:
        """The script has mixed precision of its own."""
        if what not in self._own_amp:
            self._own_amp.add(what)
            self.recorder.write("own_amp", what=what)

    def warn(self, text: str) -> None:
        """Something that the user should know, once."""
        if text not in self._warned:
            self._warned.add(text)
            self.recorder.write("warning", text=text)

    @property
    def training(self) -> bool:
        """Whether a model's train function is running, or being traced."""
        return self._trainers.active

    @property
    def in_train_step(self) -> bool:
        """Whether a model's train_step is being traced, or running."""
        return self._trainers.seen is not None

    def model_scale(self) -> Any:
        """The scale of the optimizer of the model whose train_step is under way; None if it has none."""
        seen = self._trainers.seen
        return None if seen is None else seen.scale

    def compiled_optimizer(self) -> Any:
        """The optimizer with which the model was compiled whose train_step is under way; None outside, or if none."""
        return self._trainers.optimizer

    def took_pass(self) -> bool:
        """On JAX: whether the loss of the gradients that are about to be applied was scaled by ``jax.grad``."""
        return bool(self._loops.took_pass())

    def saw_loss(self, loss: Any) -> None:
        """The loss of the train_step under way, before scaling."""
        seen = self._trainers.seen
        if seen is not None and self.backend != "jax":
            seen.loss = backend.copied(loss)

    def beneath_rests(self, rests: bool) -> None:
        """On the PyTorch backend: a loss that Keras has scaled must not be scaled again by ``backward``."""
        if self._beneath is None or self.backend != "torch":
            return
        scaling = self._beneath.scaling
        if rests and self._resting is None:
            self._resting, scaling.loss_scale = scaling.loss_scale, NoScale()
        elif not rests and self._resting is not None:
            scaling.loss_scale, self._resting = self._resting, None

    def step_scale(self, scale: Any) -> None:
        """On the PyTorch backend: passes of a train_step are scaled as its optimizer is; None: it is over."""
        if self._beneath is None or self.backend != "torch" or not self.recipe.guards:
            return
        scaling = self._beneath.scaling
        if scale is not None and self._outside is None and math.frexp(float(scale))[0] == 0.5:
            self._outside, scaling.loss_scale = scaling.loss_scale, StaticScale(float(scale))
        elif scale is None and self._outside is not None:
            scaling.loss_scale, self._outside = self._outside, None

    def trace_begins(self) -> None:
        """A train_step is being traced, or running eagerly."""
        self._sample.trace_begins()

    def loop_traced(self) -> None:
        """The graph under way contains a step of a loop of the script's own."""
        self.framework = "tensorflow"
        self.loop_begins()
        self._sample.trace_begins()

    def loop_begins(self) -> None:
        """A loop of the script's own makes a step, or is being traced."""
        self._in_loop = True

    def look_into(self, program: Any, shapes: Any, steps: int) -> None:
        """A compiled function of JAX's, with arguments of these shapes, has made ``steps``, the sampled one first."""
        args, kwargs = shapes
        self._batch = _first_dimension((args[-1:], kwargs))
        self._sample.look_into(program, args, kwargs, steps)

    def loop_goes_on(self) -> None:
        """In a PyTorch loop of the script's own the next step begins where this one ends."""
        if self.backend == "torch" and not self.training:
            self.statistics.keep()

    @property
    def sampling(self) -> bool:
        """Whether the step under way is the one that is looked at closely."""
        return self.recorder.steps == SAMPLED_STEP and isinstance(self.options.writer, Writer)

    def sampled_call(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a train function; closely watched where it is the sampled step's turn."""
        if not self.sampling:
            return call(*args, **kwargs)
        return self._sample.watch(call, args, kwargs, _samples)

    def loop_call(self, call: Callable[..., Any], function: Any, args: Any, kwargs: Any) -> Any:
        """Call a tf.function of the script's; watched likewise."""
        if not self.sampling or self.framework != "tensorflow":
            return call(function, *args, **kwargs)
        self._batch = _first_dimension((args, kwargs))
        return self._sample.watch(call, (function, *args), kwargs, lambda result: self._batch)

    def stepped(self, seen: Seen, model: Any) -> None:
        """A model's train function has made a step."""
        self._model = model
        sampled = self.sampling
        if sampled:
            weights = [v for v in model.variables if v not in _ids(model.metrics_variables)]
            self._write_sample(memory_of(weights, model.trainable_variables, model.optimizer), seen.samples)
        self.recorder.step(seen, sampled)
        self._after_steps(sampled)

    def loop_stepped(self, steps: list[Seen]) -> None:
        """A loop of the script's own has made steps, more than one where the loop is inside a graph."""
        if self.recorder.steps == 0:
            self.announce()
        for index, seen in enumerate(steps):
            sampled = self.sampling
            if sampled:
                self._sample.close_eager()
                optimizer = self._loops.optimizer
                inner = getattr(optimizer, "inner_optimizer", optimizer)
                trained = [] if inner is None else inner._trainable_variables
                self._write_sample(memory_of(trained, trained, optimizer), self._batch)
            self.recorder.step(seen, sampled, share=0 if index else len(steps))
            self._after_steps(sampled)
        if self.sampling:
            self._sample.open_eager()
        self.end_if_due()

    def _write_sample(self, memory: dict[str, int], samples: Any) -> None:
        sample = self._sample
        found = {"matmul_flops": sample.flops} if sample.flops is not None else {"absent": sample.absent}
        self.recorder.write(
            "sample",
            step=self.recorder.steps,
            **found,
            memory=memory,
            memory_absent={"activations": NO_ACTIVATIONS},
            time_shares_absent=NO_TIMES,
            samples=None if samples is None else int(samples),
        )

    def _after_steps(self, sampled: bool) -> None:
        if sampled:
            self.options.warm()
        elif self.recorder.steps > SAMPLED_STEP:
            self.options.tick()
        if self.recorder.steps == 1:
            try:
                self._keep.check()
            except HalfstepError as error:
                self._ending = error
        if (
            self._ending is None
            and self.options.steps is not None
            and self.recorder.steps >= self.options.steps
        ):
            self._ending = EnoughSteps()
        self.recorder.resume()

    def _read(self, finite: bool, scale: float) -> None:
        """A step's numbers have arrived: at the smallest scale, gradients that stay infinite end the program."""
        recipe = self.recipe.loss_scale
        smallest = not isinstance(recipe, DynamicScale) or scale <= recipe.floor
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= HOPELESS and smallest and self.recipe.guards and self._ending is None:
            sentence = overflow_sentence(self.recipe.compute, scale, recipe.value)
            self._ending = GradientsOverflow(sentence)

    def end_if_due(self) -> None:
        """End the program where ``--steps`` or an error says so, at a point where Keras's own state is in order."""
        ending = self._ending
        if isinstance(ending, HalfstepError):
            self.options.halt(ending)
        if ending is not None:
            raise ending


def _samples(result: Any) -> Any:
    logs = result[0] if isinstance(result, tuple) else result
    return logs.get("halfstep", {}).get("samples") if isinstance(logs, dict) else None


def _first_dimension(arguments: Any) -> int | None:
    """The batch's size, of the first array among ``arguments``."""
    leaves = keras.tree.flatten(arguments)
    return next((int(x.shape[0]) for x in leaves if len(getattr(x, "shape", ()) or ()) > 0), None)


class _ids:
    """Whether a variable is among some, by identity: ``==`` of variables compares their values."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self._ids = {id(v) for v in variables}

    def __contains__(self, variable: object) -> bool:
        return id(variable) in self._ids
