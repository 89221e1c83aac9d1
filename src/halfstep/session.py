"""One program under one recipe: what ``halfstep run`` and ``halfstep.enable`` set up before the program begins."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from halfstep import __version__
from halfstep.errors import HalfstepError, UsageError
from halfstep.program import Ending, at_end, on_import
from halfstep.recipes import Recipe, parse
from halfstep.record import SCHEMA, NullWriter, Writer

if TYPE_CHECKING:
    from halfstep.pytorch.takeover import Takeover

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        precision: a recipe's text, or ``auto``: the fastest that is native here.
        products: where 16-bit products are computed on a CPU: ``auto``, ``native`` or ``fp32``.
        steps: end the program after this many steps.
        seed: shift every seed by this; None to leave seeds alone.
        record: file to write the record to.
        command: the program and its arguments, for the record.
        repeat: which repeat of a comparison this is.
    """

    precision: str = AUTO
    products: Literal["auto", "native", "fp32"] = "auto"
    steps: int | None = None
    seed: int | None = None
    record: str | None = None
    command: tuple[str, ...] = ()
    repeat: int = 0


def say(text: str) -> None:
    """halfstep's own words go to stderr, on the first rank only."""
    if rank() == 0:
        print(f"halfstep: {text}", file=sys.stderr)


def rank() -> int:
    """This process's rank among those that a launcher started; 0 without one."""
    return int(os.environ.get("RANK", "0"))


class Session:
    """The recipe of this process, in force as soon as the program imports its framework."""

    current: Session | None = None

    def __init__(self, settings: Settings, end_program: bool) -> None:
        self.settings = settings
        self.recipe: Recipe | None = None if settings.precision == AUTO else parse(settings.precision)
        self.takeover: Takeover | None = None
        self._end_program = end_program
        self._failure: tuple[str, str] | None = None
        self._meters: _Meters | None = None
        self._writer = self._open_record()

    def _open_record(self) -> Writer | NullWriter:
        path = self.settings.record
        if path is None:
            return NullWriter()
        return Writer(path if rank() == 0 else f"{path}.rank{rank()}")

    def begin(self) -> None:
        """Set everything up; the program runs next.

        Raises:
            UsageError: halfstep is in force already in this process.
        """
        if Session.current is not None:
            raise UsageError(
                f"halfstep is already in force here with precision {Session.current.name}; enable it once, "
                "as the first line of the program, or by `halfstep run`, not both."
            )
        Session.current = self
        self._writer.write("start", **self._start())
        if self.settings.seed is not None:
            from halfstep.seeds import shift_seeds

            shift_seeds(self.settings.seed)
        at_end(self._end)
        on_import("torch", self._take_over_torch)

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
            "world_size": int(os.environ.get("WORLD_SIZE", "1")),
            "command": list(settings.command),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _take_over_torch(self, torch: ModuleType) -> None:
        """The program has just imported PyTorch."""
        try:
            from halfstep.pytorch.takeover import Options, Takeover

            recipe = self._chosen()
            self._meters = _Meters()
            options = Options(
                recipe,
                self.settings.products,
                self.settings.steps,
                self._writer,
                self._meters.warm,
                self._halt,
            )
            self.takeover = Takeover(options)
        except HalfstepError as error:
            self._failure = ("unsupported", str(error))
            self._halt(error)
            raise

    def _chosen(self) -> Recipe:
        if self.recipe is None:
            from halfstep.pytorch.capabilities import best

            precision, reason = best()
            self.recipe = parse(precision)
            say(f"precision {precision} ({reason})")
        return self.recipe

    def _halt(self, error: HalfstepError) -> None:
        """End the program with one sentence instead of a traceback, where halfstep runs it."""
        if self._failure is None:
            self._failure = ("diverged" if error.exit_code == 1 else "failed", str(error))
        if self._end_program:
            say(str(error))
            raise SystemExit(error.exit_code)

    def _end(self, ending: Ending) -> None:
        """The program is over: the record's last line, and a word on stderr where something was changed."""
        steps = 0
        if self.takeover is not None:
            self.takeover.recorder.close()
            steps = self.takeover.recorder.steps
        status, reason = self._outcome(ending, steps)
        meters = {} if self._meters is None else self._meters.read()
        self._writer.write(
            "end",
            status=status,
            reason=reason,
            exit_code=ending.exit_code,
            exception=ending.exception,
            steps=steps,
            skipped_steps=0 if self.takeover is None else self.takeover.scaling.skipped,
            **meters,
        )
        self._last_words(steps)

    def _outcome(self, ending: Ending, steps: int) -> tuple[str, str]:
        if self._failure is not None:
            return self._failure
        if ending.out_of_memory:
            return "out_of_memory", ending.reason
        if ending.status in ("interrupted", "terminated"):
            return "interrupted", ending.reason
        if ending.status == "ok" and steps == 0:
            return "failed", "ended without an optimizer step"
        return ending.status, ending.reason

    def _last_words(self, steps: int) -> None:
        """Where something was changed, or was asked for and did not happen, say so."""
        takeover, asked = self.takeover, self.name
        if self._failure is not None or asked.split(":")[0] in ("as-is", "fp32"):
            return
        if takeover is None:
            say(f"the program did not import PyTorch: precision {asked} was not put into force")
        elif steps == 0:
            say(f"the program ended without an optimizer step; it ran as {takeover.ran_as}")
        else:
            skipped = takeover.scaling.skipped
            skips = f", {skipped} of them skipped (gradients were not finite)" if skipped else ""
            say(f"ran as {takeover.ran_as}: {steps} steps{skips}")


class _Meters:
    """Memory and energy of this process, over the steps after the sampled one."""

    def __init__(self) -> None:
        from halfstep.meters import EnergyMeter, PeakMemory, open_meters

        self._memory = PeakMemory()
        self._memory.start()
        self._energy: list[EnergyMeter] = open_meters()
        self._warm = False

    def warm(self) -> None:
        """Training runs as it will from now on: restart the windows."""
        self._memory.mark()
        for meter in self._energy:
            meter.start()
        self._warm = True

    def read(self) -> dict[str, Any]:
        """The readings as fields of the record's ``end``; what is absent with its reason."""
        from halfstep.meters import Absent

        peak = self._memory.read()
        fields: dict[str, Any] = (
            {"peak_memory_absent": peak.reason}
            if isinstance(peak, Absent)
            else {"peak_memory_bytes": int(peak.value), "peak_memory_how": peak.how}
        )
        readings = [meter.read() for meter in self._energy] if self._warm else []
        joules = [reading.value for reading in readings if not isinstance(reading, Absent)]
        if joules:
            how = "; ".join(reading.how for reading in readings if not isinstance(reading, Absent))
            return fields | {"energy_joules": sum(joules), "energy_how": how}
        reasons = [reading.reason for reading in readings if isinstance(reading, Absent)]
        return fields | {
            "energy_absent": "; ".join(reasons) or "the program ended before the meters were started"
        }


def enable(precision: str = AUTO, **options: Any) -> None:
    """Put a precision into force in this program: the first line of a script, before any training.

    Args:
        precision: as on the command line, e.g. ``"bf16"`` or ``"fp16:loss_scale=1024"``; ``"auto"`` chooses.
        **options: ``products``, ``steps``, ``seed`` and ``record``, as the options of ``halfstep run``.

    Raises:
        UsageError: called twice, after a backward pass or after an optimizer was made, or an unknown precision.
        Unsupported: this machine cannot run it (raised when torch is imported, if it is not yet).

    Example:
        >>> import halfstep
        >>> halfstep.enable("bf16")  # doctest: +SKIP
    """
    unknown = set(options) - {"products", "steps", "seed", "record"}
    if unknown:
        raise UsageError(
            f"halfstep.enable() was given {', '.join(sorted(unknown))}; allowed are products, steps, seed and record."
        )
    if "torch" in sys.modules:
        from halfstep.pytorch.late import refuse_if_late

        refuse_if_late()
    Session(Settings(precision, command=tuple(sys.argv), **options), end_program=False).begin()


def log(**figures: float) -> None:
    """Add figures of the script's own, such as ``accuracy=0.98``, to the record, at the current step.

    Does nothing when the program does not run under halfstep, so the line can stay in the script.

    Raises:
        TypeError: a value that is not a number.
    """
    values = {name: float(value) for name, value in figures.items()}
    session = Session.current
    if session is None or session.takeover is None:
        return
    recorder = session.takeover.recorder
    for name, value in values.items():
        recorder.write("logged", name=name, value=value, step=recorder.steps)


def skipped_steps() -> int:
    """How many optimizer steps halfstep has skipped so far because gradients were not finite."""
    session = Session.current
    return 0 if session is None or session.takeover is None else session.takeover.scaling.skipped
