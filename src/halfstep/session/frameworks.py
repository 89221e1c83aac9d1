"""Each framework is taken over as soon as the program has imported it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from halfstep.errors import HalfstepError, Unsupported, UsageError
from halfstep.integrations import Attached, watch
from halfstep.options import run_arguments
from halfstep.precisions.recipes import Recipe, parse
from halfstep.program import on_import
from halfstep.program.child import command
from halfstep.record import NullWriter, Writer
from halfstep.session.settings import AUTO, Settings, say
from halfstep.session.stop import Stop

if TYPE_CHECKING:
    from halfstep.meters import RunMeters
    from halfstep.takeover.base import Options, Takeover


class Frameworks:
    """The frameworks of a program, and the recipe that is put into force in them.

    Attributes:
        settings: what the user asked for.
        recipe: what is in force; None as long as ``auto`` has not chosen.
        takeovers: of the frameworks that were imported, in that order.
        meters: of the program's run, from its first framework on.
    """

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self.ask(settings)
        self._stop = stop
        self._writer: Writer | NullWriter = NullWriter()
        self.takeovers: list[Takeover] = []
        self.meters: RunMeters | None = None
        self._attached: Attached | None = None
        self._undo: list[Callable[[], None]] = []

    def ask(self, settings: Settings) -> None:
        """Take over by these settings, from the next framework on."""
        self.settings = settings
        self.recipe: Recipe | None = None if settings.precision == AUTO else parse(settings.precision)

    @property
    def name(self) -> str:
        """The recipe, or ``auto`` as long as nothing was chosen."""
        return AUTO if self.recipe is None else str(self.recipe)

    @property
    def as_is(self) -> bool:
        """Whether the program runs as python runs it."""
        return self.recipe is not None and self.recipe.as_is

    def begin(self, writer: Writer | NullWriter) -> None:
        """Wait for the imports; what is imported already is taken over now."""
        self._writer = writer
        imports = {
            "torch": self._take_over_torch,
            "keras": self._take_over_keras,
            "tf_keras": self._refuse_keras_2,
            "jax": self._watch_jax,
        }
        for name, act in imports.items():
            self._undo.append(on_import(name, act))
        self._undo += watch(lambda: self._attached)
        for takeover in self.takeovers:
            takeover.adopt()

    def check_undone(self) -> None:
        """Raise UsageError where the recipe cannot be taken off again; the sentence says why."""
        for takeover in self.takeovers:
            if why := takeover.cannot_be_undone:
                raise UsageError(f"halfstep cannot take precision {self.name} off again here: {why}.")

    def remove(self) -> None:
        """Make the frameworks what they were."""
        for takeover in reversed(self._let_go()):
            takeover.remove()
            takeover.disown()
        while self._undo:
            self._undo.pop()()

    def _let_go(self) -> list[Takeover]:
        taken, self.takeovers, self._attached = self.takeovers, [], None
        return taken

    def take_over_again(self) -> None:
        """Put what is asked for now in the place of what was in force.

        Raises:
            UsageError: Keras was imported, which settles the dtypes of what it makes.
        """
        taken = self._let_go()
        if any(takeover.framework != "pytorch" for takeover in taken):
            raise UsageError(
                "halfstep.enable() came after Keras was imported; make it the first line of the program."
            )
        for takeover in taken:
            takeover.remove()
            takeover.disown()
            self._take_over_torch(sys.modules["torch"])
            self.takeovers[-1].adopt()

    @property
    def training(self) -> Takeover | None:
        """The framework that trains: of several that were imported, the one that made the most steps so far.

        Before the first step it is the last one that is in use: torch may come on the way to keras.
        """
        if len(self.takeovers) < 2:
            return next(iter(self.takeovers), None)
        made = max(self.takeovers, key=lambda takeover: takeover.steps)
        return (
            made
            if made.steps
            else next(t for t in (*reversed(self.takeovers), made) if t.in_use or t is made)
        )

    def close(self) -> None:
        """The program is over."""
        for takeover in self.takeovers:
            takeover.close()
        self._announce_training()

    def _announce_training(self) -> None:
        """Of several frameworks, write to the record which one trains."""
        if self.training is not None and len(self.takeovers) > 1:
            self.training.announce()

    def _relaunch(self) -> list[str]:
        """The start of a command that runs the program once more as it runs here: an interpreter and options."""
        settings = self.settings
        return command(
            *run_arguments(
                self.name,
                settings.options,
                seed=settings.seed,
                repeat=settings.repeat,
                record=settings.record,
            )
        )

    def _take_over_torch(self, torch: ModuleType) -> None:
        """The program has just imported PyTorch."""

        def take_over() -> Takeover:
            from halfstep.pytorch import capabilities
            from halfstep.pytorch.takeover import Takeover

            takeover = Takeover(self._options(capabilities.best))
            self._attached = Attached(takeover, self._relaunch() if self._stop.of_command else None)
            return takeover

        self._take_over("torch", str(torch.__version__), take_over)

    def _take_over_keras(self, keras: ModuleType) -> None:
        """The program has just imported Keras; on the PyTorch backend that has imported PyTorch as well."""

        def take_over() -> Takeover:
            from halfstep.keras import capabilities
            from halfstep.keras.takeover import Takeover

            return Takeover(self._options(capabilities.best), tuple(self.takeovers))

        self._take_over("keras", str(keras.__version__), take_over)

    def _watch_jax(self, jax: ModuleType) -> None:
        """The program has just imported JAX: for Keras, for another purpose, or to train with JAX alone."""
        from halfstep.session.jax_alone import watch_gradients

        asked = self.name.split(":")[0]
        if asked not in ("as-is", "fp32"):
            self._undo.append(watch_gradients(jax, self._refuse_jax_alone).undo)

    def _refuse_jax_alone(self) -> None:
        """A gradient is about to be computed by JAX itself."""
        if not self.takeovers:
            self._stop.refuse(
                Unsupported(
                    f"The program computes gradients with JAX alone, without Keras, so precision {self.name} cannot be "
                    "put into force; train with Keras on JAX, or use --precision as-is."
                )
            )

    def _refuse_keras_2(self, keras: ModuleType) -> None:
        """The program has just imported Keras 2 under the name that it bears today."""
        from halfstep.machine.frameworks import FRAMEWORKS

        def refuse() -> Takeover:
            raise Unsupported(
                f"tf_keras {keras.__version__} is Keras 2, which halfstep does not take over; unset "
                "TF_USE_LEGACY_KERAS, or use keras 3."
            )

        self._take_over("keras", FRAMEWORKS["keras"].oldest_version, refuse)

    def _take_over(self, framework: str, version: str, take_over: Callable[[], Takeover]) -> None:
        from halfstep.machine.frameworks import FRAMEWORKS

        try:
            FRAMEWORKS[framework].check(version)
            if self.meters is None:
                from halfstep.meters import RunMeters

                self.meters = RunMeters()
            self.takeovers.append(take_over())
        except HalfstepError as error:
            self._stop.refuse(error)

    def _options(self, best: Callable[[], tuple[str, str]]) -> Options:
        """How the recipe is to be put into force; ``best`` chooses one where the user left that open."""
        if self.recipe is None:
            precision, reason = best()
            self.recipe = parse(precision)
            say(f"precision {precision} ({reason})")
        from halfstep.takeover.base import Options

        settings = self.settings
        tick = (lambda: None) if self.meters is None else self.meters.tick
        return Options(
            self.recipe,
            settings.options,
            self._writer,
            self._warm,
            tick,
            self._stop.halt,
            settings.watch,
            settings.graphs,
            say,
        )

    def _warm(self) -> None:
        """A takeover's sampled step is over: meters start, and the record gets the framework that trains."""
        if self.meters is not None:
            self.meters.warm()
        self._announce_training()
