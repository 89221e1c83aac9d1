"""Puts a recipe into force in Keras. Every place that is touched is named in :meth:`Takeover.install`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import keras
from keras import DTypePolicy

from halfstep.errors import Unsupported
from halfstep.keras import backends
from halfstep.keras.already_started import first_made
from halfstep.keras.loops.base import Parts
from halfstep.keras.loops.fit import FitLoop
from halfstep.keras.loss_scaling.extra_optimizers import ExtraOptimizers
from halfstep.keras.loss_scaling.scaler import Scaler
from halfstep.keras.loss_scaling.statistics import NullStatistics, Statistics
from halfstep.keras.notices import Notices
from halfstep.keras.policies.loaded import Loaded
from halfstep.keras.policies.policy import Keep, Policies, policy_of
from halfstep.keras.policies.region import Region
from halfstep.keras.recording.progress import Progress
from halfstep.keras.step import StepState
from halfstep.takeover.base import Options, asked_of
from halfstep.takeover.base import Takeover as Face
from halfstep.takeover.patches import Patches


class Takeover(Face):
    """A recipe in force in Keras, in this process.

    Args:
        others: takeovers of frameworks that were imported before; PyTorch's works below Keras's on that backend.
    """

    framework = "keras"

    def __init__(self, options: Options, others: Sequence[Face] = ()) -> None:
        started = time.perf_counter()
        recipe = options.recipe
        if recipe.lean:
            raise Unsupported(
                f"Precision {recipe.name} cannot run here: halfstep leads PyTorch's optimizers, not Keras's; use "
                "--precision bf16."
            )
        self._recipe = recipe
        self._writer = options.writer
        self._patches = Patches()
        self._backend = runtime = backends.running()
        runtime.attach(others)
        self.ran_as = runtime.ran_as(options)
        self._device = runtime.device()
        self._notices = notices = Notices(options)
        keep = Keep(recipe.keep, self._patches)
        self._progress = Progress(
            options,
            runtime.sample(),
            on_accelerator=self._device != "cpu",
            wait=runtime.wait_for,
            check_kept=keep.check,
            announce=self.announce,
        )
        step = StepState(runtime)
        statistics = Statistics(runtime, self._patches) if recipe.guards else NullStatistics()
        self._scaler = Scaler(recipe, runtime, step, statistics, notices)
        self._extra = ExtraOptimizers(recipe.loss_scale, runtime, step, self._scaler, statistics, notices)
        parts = Parts(recipe, runtime, step, self._scaler, statistics, self._progress, notices)
        self._fit = FitLoop(parts)
        self._own_loop = runtime.own_loop(parts)
        self.install()
        self._seconds = time.perf_counter() - started
        self.announce()

    def install(self) -> None:
        """Replace what has to be replaced, and nothing that the recipe does not need."""
        recipe, patches, backend = self._recipe, self._patches, self._backend
        policies = Policies(recipe, self._notices.own_amp)
        policies.install(patches)
        if not recipe.as_is:
            backend.set_tf32(recipe.compute == "tf32")
            Loaded(recipe, policies, self._notices.warn).install(patches)
        if recipe.compute in ("bf16", "fp16"):
            Region().install(patches)
            backend.mix_operands(DTypePolicy(policy_of(recipe)).compute_dtype, patches)
        self._fit.install(patches)
        self._progress.sample.install(patches)
        # Of several wrappers of an optimizer's apply the last one is called first.
        self._own_loop.install(patches)
        self._scaler.install(patches)
        if recipe.guards:
            self._extra.install(patches)

    @property
    def cannot_be_undone(self) -> str:
        first = first_made()
        return first and f"Keras settled the dtypes of {first!r} when it was made; restart the program"

    def remove(self) -> None:
        """Put Keras back as it was (tests do this; a program ends with its recipe in force)."""
        self._patches.undo()

    @property
    def in_use(self) -> bool:
        """Whether the program has made a layer or an optimizer; TensorBoard imports Keras and makes none."""
        kinds = (keras.Layer, keras.optimizers.Optimizer)
        # The type, not isinstance: an object may claim a class that it first has to import, or warns about.
        return any(issubclass(type(thing), kinds) for thing in gc.get_objects())

    @property
    def steps(self) -> int:
        return self._progress.steps

    @property
    def skipped(self) -> int:
        return self._progress.skipped

    @property
    def no_step(self) -> str:
        return self._own_loop.no_step or super().no_step

    def announce(self) -> None:
        if self._own_loop.stepped:
            self.framework = self._own_loop.framework
        self.write(
            "takeover",
            framework=self.framework,
            backend=self._backend.name,
            version=keras.__version__,
            backend_version=self._backend.version,
            ran_as=self.ran_as,
            software=self._backend.software(self._recipe),
            software_formats=self._backend.software_formats(self._recipe),
            **self._backend.product_fields,
            **asked_of(self._recipe),
            emulated=self._backend.emulated,
            device=self._device,
            loop=self._own_loop.stepped,
            seconds=self._seconds,
        )

    def write(self, event: str, **fields: Any) -> None:
        self._writer.write(event, **fields)

    def close(self) -> None:
        self._progress.close(self._own_loop.close)
