"""One program under one recipe: what ``halfstep run`` and ``halfstep.enable`` set up before the program begins."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from types import ModuleType
from typing import TYPE_CHECKING, Any

from halfstep.errors import HalfstepError, Unsupported, UsageError
from halfstep.format_errors import cure_words, format_error
from halfstep.integrations import Attached, watch
from halfstep.launching import rank, world_size
from halfstep.options import DEFAULTS, RunOptions, run_arguments
from halfstep.plural import count
from halfstep.precisions.recipes import Recipe, parse
from halfstep.program import Ending, at_end, on_import
from halfstep.program.child import command
from halfstep.program.files_read import FilesRead
from halfstep.ran import Ran, in_force_words, words
from halfstep.record import SCHEMA, NullWriter, Writer
from halfstep.version import __version__

if TYPE_CHECKING:
    from halfstep.meters import RunMeters
    from halfstep.takeover.base import Options, Takeover

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        precision: a recipe's text, or ``auto``: the fastest that is native here.
        options: the options of the run.
        seed: shift every seed by this; None to leave seeds alone.
        record: file to write the record to.
        command: the program and its arguments, for the record.
        repeat: which repeat of a comparison this is.
        watch: look at every operation, for a diagnosis.
        graphs: compare each compiled graph with the same graph run eagerly.
    """

    precision: str = AUTO
    options: RunOptions = DEFAULTS
    seed: int | None = None
    record: str | None = None
    command: tuple[str, ...] = ()
    repeat: int = 0
    watch: bool = False
    graphs: bool = False


def say(text: str) -> None:
    """halfstep's own words go to stderr, on the first rank only."""
    if rank() == 0:
        print(f"halfstep: {text}", file=sys.stderr)


class Session:
    """The recipe of this process, in force as soon as the program imports its framework."""

    current: Session | None = None

    def __init__(self, settings: Settings, end_program: bool) -> None:
        self.settings = settings
        self.recipe: Recipe | None = None if settings.precision == AUTO else parse(settings.precision)
        self._takeovers: list[Takeover] = []
        self._attached: Attached | None = None
        self._end_program = end_program
        self._asked_by_script = False
        self._asked: Settings | None = None
        self._own_wish_runs = False
        self._yielded: set[str] = set()
        self._failure: tuple[str, str] | None = None
        self._meters: RunMeters | None = None
        self._files: FilesRead | None = None
        self._writer = self._open_record()
        self._undo: list[Callable[[], None]] = []
        self._ended = False

    def _open_record(self) -> Writer | NullWriter:
        path = self.settings.record
        if path is None:
            return NullWriter()
        return Writer(path if rank() == 0 else f"{path}.rank{rank()}")

    def begin(self) -> None:
        """Set everything up; the program runs next."""
        Session.current = self
        if "HALFSTEP_TRIAL" in os.environ:
            self._files = FilesRead()
        self._writer.write("start", **self._start())
        self._shift_seeds(self.settings.seed)
        at_end(self._end)
        imports = {
            "torch": self._take_over_torch,
            "keras": self._take_over_keras,
            "tf_keras": self._refuse_keras_2,
            "jax": self._watch_jax,
        }
        for name, act in imports.items():
            self._undo.append(on_import(name, act))
        self._undo += watch(lambda: self._attached)
        for takeover in self._takeovers:
            takeover.adopt()

    def end(self) -> None:
        """Take the recipe off again, between two steps: the frameworks are what they were.

        Raises:
            UsageError: that cannot be done; the sentence says why. Everything stays as it is.
        """
        for takeover in self._takeovers:
            if why := takeover.cannot_be_undone:
                raise UsageError(f"halfstep cannot take precision {self.name} off again here: {why}.")
        self._end(Ending("ok", None), program_goes_on=True)
        taken, self._takeovers, self._attached = self._takeovers, [], None
        for takeover in reversed(taken):
            takeover.remove()
            takeover.disown()
        while self._undo:
            self._undo.pop()()
        Session.current = None

    @property
    def of_command(self) -> bool:
        """Whether `halfstep run` or a comparison runs the program, which so has one precision from start to end."""
        return self._end_program

    @property
    def as_is(self) -> bool:
        """Whether the program runs as python runs it."""
        return self.recipe is not None and self.recipe.as_is

    def yields(self, call: str) -> bool:
        """The script changes its precision while `halfstep run` runs it: that is not followed, and said once.

        Raises:
            UsageError: the script's own wish is what runs, and it has a second one, which no record can hold.
        """
        if self._own_wish_runs or self.as_is:
            error = UsageError(
                f"The program changes its precision by {call}, and a record is of one precision; run it with python, "
                "or name a precision with --precision."
            )
            self._halt(error)
            raise error
        if call not in self._yielded:
            self._yielded.add(call)
            say(f"the program's own {call} yields to --precision {self.name}")
        return True

    def yielded_to(self, asked: Settings) -> bool:
        """The script enables halfstep although `halfstep run` runs it: its first wish yields, or rules under ``as-is``.

        Returns:
            False if this process is not `halfstep run`'s.
        """
        if not self._end_program:
            return False
        call = f"halfstep.enable({asked.precision!r})"
        if self._asked_by_script:
            return asked == self._asked or self.yields(call)
        self._asked_by_script, self._asked = True, asked
        asks = parse(asked.precision).compute if asked.precision != AUTO else None
        self._writer.write("own_amp", what="halfstep.enable", **({} if asks is None else {"asks": asks}))
        if self.as_is:
            self._own_wish_runs = True
            self._follow(asked)
        else:
            self.yields(call)
        return True

    def _follow(self, asked: Settings) -> None:
        """``as-is`` is what the script itself does, and it enables ``asked``."""
        self.settings = replace(
            self.settings,
            precision=asked.precision,
            options=replace(asked.options, steps=self.settings.options.steps or asked.options.steps),
        )
        self.recipe = None if asked.precision == AUTO else parse(asked.precision)
        self._shift_seeds(asked.seed)
        taken, self._takeovers = self._takeovers, []
        if any(takeover.framework != "pytorch" for takeover in taken):
            raise UsageError(
                "halfstep.enable() came after Keras was imported; make it the first line of the program."
            )
        for takeover in taken:
            takeover.remove()
            takeover.disown()
            self._take_over_torch(sys.modules["torch"])
            self._takeovers[-1].adopt()

    @property
    def takeover(self) -> Takeover | None:
        """The framework that trains: of several that were imported, the one that made the most steps so far.

        Before the first step it is the last one that is in use: torch may come on the way to keras.
        """
        if len(self._takeovers) < 2:
            return next(iter(self._takeovers), None)
        made = max(self._takeovers, key=lambda takeover: takeover.steps)
        return (
            made
            if made.steps
            else next(t for t in (*reversed(self._takeovers), made) if t.in_use or t is made)
        )

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

    @property
    def name(self) -> str:
        """The recipe, or ``auto`` as long as nothing was chosen."""
        return AUTO if self.recipe is None else str(self.recipe)

    def _start(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "schema": SCHEMA,
            "halfstep": __version__,
            "precision": self.name,
            "seed": settings.seed,
            "repeat": settings.repeat,
            "rank": rank(),
            "world_size": world_size(),
            "command": list(settings.command),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _take_over_torch(self, torch: ModuleType) -> None:
        """The program has just imported PyTorch."""

        def take_over() -> Takeover:
            from halfstep.pytorch import capabilities
            from halfstep.pytorch.takeover import Takeover

            takeover = Takeover(self._options(capabilities.best))
            self._attached = Attached(takeover, self._relaunch() if self._end_program else None)
            return takeover

        self._take_over("torch", str(torch.__version__), take_over)

    def _take_over_keras(self, keras: ModuleType) -> None:
        """The program has just imported Keras; on the PyTorch backend that has imported PyTorch as well."""

        def take_over() -> Takeover:
            from halfstep.keras import capabilities
            from halfstep.keras.takeover import Takeover

            return Takeover(self._options(capabilities.best), tuple(self._takeovers))

        self._take_over("keras", str(keras.__version__), take_over)

    def _watch_jax(self, jax: ModuleType) -> None:
        """The program has just imported JAX, for Keras, for some other end, or to train with it alone."""
        from halfstep.jax_alone import watch_gradients

        asked = self.name.split(":")[0]
        if asked not in ("as-is", "fp32"):
            self._undo.append(watch_gradients(jax, self._refuse_jax_alone).undo)

    def _refuse_jax_alone(self) -> None:
        """A gradient is about to be computed by JAX itself."""
        if not self._takeovers:
            error = Unsupported(
                f"The program computes gradients with JAX alone, without Keras, so precision {self.name} cannot be put "
                "into force; train with Keras on JAX, or use --precision as-is."
            )
            self._failure = ("unsupported", str(error))
            self._halt(error)
            raise error

    def _refuse_keras_2(self, keras: ModuleType) -> None:
        """The program has just imported Keras 2 under the name that it bears today."""

        from halfstep.frameworks import FRAMEWORKS

        def refuse() -> Takeover:
            raise Unsupported(
                f"tf_keras {keras.__version__} is Keras 2, which halfstep does not take over; unset "
                "TF_USE_LEGACY_KERAS, or use keras 3."
            )

        self._take_over("keras", FRAMEWORKS["keras"].oldest_version, refuse)

    def _take_over(self, framework: str, version: str, take_over: Callable[[], Takeover]) -> None:
        from halfstep.frameworks import FRAMEWORKS

        try:
            FRAMEWORKS[framework].check(version)
            if self._meters is None:
                from halfstep.meters import RunMeters

                self._meters = RunMeters()
            self._takeovers.append(take_over())
        except HalfstepError as error:
            self._failure = ("unsupported", str(error))
            self._halt(error)
            raise

    def _options(self, best: Callable[[], tuple[str, str]]) -> Options:
        """How the recipe is to be put into force; ``best`` chooses one where the user left that open."""
        if self.recipe is None:
            precision, reason = best()
            self.recipe = parse(precision)
            say(f"precision {precision} ({reason})")
        from halfstep.takeover.base import Options

        settings = self.settings
        tick = (lambda: None) if self._meters is None else self._meters.tick
        return Options(
            self.recipe,
            settings.options,
            self._writer,
            self._warm,
            tick,
            self._halt,
            settings.watch,
            settings.graphs,
            say,
        )

    def _warm(self) -> None:
        """A takeover's sampled step is over: meters start, and the record is told which framework it is that trains."""
        if self._meters is not None:
            self._meters.warm()
        if self.takeover is not None and len(self._takeovers) > 1:
            self.takeover.announce()

    def _halt(self, error: HalfstepError) -> None:
        """End the program with one sentence instead of a traceback, where halfstep runs it."""
        if self._failure is None:
            kind = "unsupported" if isinstance(error, Unsupported) else "failed"
            self._failure = ("diverged" if error.exit_code == 1 else kind, str(error))
        if self._end_program:
            say(str(error))
            raise SystemExit(error.exit_code)

    @property
    def scale_state(self) -> dict[str, float | int] | None:
        """The loss scale in force, as a checkpoint has it; None where there is none."""
        return None if self.takeover is None else self.takeover.scale_state

    def restore_scale(self, state: dict[str, float | int]) -> None:
        """Go on from a loss scale."""
        if self.takeover is not None:
            self.takeover.restore_scale(state)

    def _shift_seeds(self, seed: int | None) -> None:
        """Shift every seed that the program sets."""
        if seed is not None:
            from halfstep.seeds import shift_seeds

            self._undo.append(shift_seeds(seed))

    def _end(self, ending: Ending, program_goes_on: bool = False) -> None:
        """The program is over: the record's last line, and a word on stderr where something was changed."""
        if self._ended:
            return
        self._ended = True
        for takeover in self._takeovers:
            takeover.close()
        if self.takeover is not None and len(self._takeovers) > 1:
            self.takeover.announce()
        steps = 0 if self.takeover is None else self.takeover.steps
        status, reason = self._outcome(ending, steps)
        meters = {} if self._meters is None else self._meters.read()
        self._writer.write(
            "end",
            status=status,
            reason=reason,
            exit_code=ending.exit_code,
            exception=ending.exception,
            raised_at=asdict(ending.raised_at),
            files_read=[] if self._files is None else self._files.told(),
            steps=steps,
            skipped_steps=0 if self.takeover is None else self.takeover.skipped_here,
            **meters,
        )
        if steps or not program_goes_on:
            self._last_words(steps)
        self._say_cause(ending)

    def _say_cause(self, ending: Ending) -> None:
        """Where the format caused the error that ended the program, say so, and what mends it."""
        if self._failure is not None or self.recipe is None:
            return
        compute = self.recipe.compute
        error = format_error(ending.reason, compute)
        if error is not None:
            at, can_keep = ending.raised_at, compute in ("bf16", "fp16") and not self.recipe.keep
            say(f"{cure_words(error, self.name, at.place, at.modules, can_keep=can_keep)}.")

    def _outcome(self, ending: Ending, steps: int) -> tuple[str, str]:
        if self._failure is not None:
            return self._failure
        if ending.out_of_memory:
            return "out_of_memory", ending.reason
        if ending.status in ("interrupted", "terminated"):
            return "interrupted", ending.reason
        if ending.status == "ok" and steps == 0:
            return "failed", self._no_step()
        return ending.status, ending.reason

    def _no_step(self) -> str:
        """Why no step was seen, in words that follow "the program"."""
        if self.takeover is not None:
            return self.takeover.no_step + _elsewhere()
        for module, name in (("tensorflow", "TensorFlow"), ("jax", "JAX")):
            if module in sys.modules:
                return (
                    f"trained with {name} alone, without Keras, whose layers and optimizers are what halfstep takes "
                    f"over in {name}"
                )
        return "did not import PyTorch or Keras"

    def _last_words(self, steps: int) -> None:
        """Where something was changed, or was asked for and did not happen, say so."""
        takeover, asked = self.takeover, self.name
        ran = Ran.of(self._writer.kept)
        quiet = asked == "as-is" or (asked == "fp32" and not ran.otherwise)
        if self._failure is not None or quiet:
            return
        if takeover is None:
            say(f"the program {self._no_step()}: precision {asked} was not put into force")
        elif steps == 0:
            say(f"the program {self._no_step()}; precision {asked} was in force")
        else:
            skipped = takeover.skipped_here
            skips = f", {skipped} of them skipped (gradients were not finite)" if skipped else ""
            lead = in_force_words(asked, ran) if ran.unknown else f"ran as {words(ran)}"
            say(f"{lead}: {count(steps, 'step')}{skips}")


def _elsewhere() -> str:
    """What to know of steps that other processes may have made; the end of a sentence."""
    if (
        "multiprocessing.popen_spawn_posix" in sys.modules
        or "multiprocessing.popen_forkserver" in sys.modules
    ):
        return " in its first process; those that it spawned are not in the recipe: start them with torchrun"
    if "multiprocessing.popen_fork" in sys.modules:
        return " in its first process; those that it forked are in the recipe, but not in the record"
    return ""


def refuse_if_late() -> None:
    """Raise UsageError if Keras has been used already: it settles the dtypes of what it makes."""
    if "keras" in sys.modules:
        from halfstep.keras import already_started as late_for_keras

        late_for_keras.refuse_if_late()
