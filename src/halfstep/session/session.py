"""One program under one recipe: what ``halfstep run`` and ``halfstep.enable`` set up before the program begins."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from halfstep.program import Ending, at_end
from halfstep.program.files_read import FilesRead
from halfstep.program.launching import rank, world_size
from halfstep.record import SCHEMA, NullWriter, Writer
from halfstep.record.ran import Ran
from halfstep.session.frameworks import Frameworks
from halfstep.session.last_words import outcome, say_cause, say_what_ran
from halfstep.session.own_wish import OwnWish
from halfstep.session.settings import Settings
from halfstep.session.stop import Stop
from halfstep.version import __version__

if TYPE_CHECKING:
    from halfstep.takeover.base import Takeover


class Session:
    """The recipe of this process, in force as soon as the program imports its framework."""

    current: Session | None = None

    def __init__(self, settings: Settings, end_program: bool) -> None:
        self._stop = Stop(end_program)
        self._frameworks = Frameworks(
            settings, self._stop
        )  # a wrong name is refused before a record is begun
        self._writer = _open_record(settings.record)
        self.own_wish = OwnWish(self._frameworks, self._writer, self._stop, self._follow)
        self._files: FilesRead | None = None
        self._unshift: list[Callable[[], None]] = []
        self._ended = False

    @property
    def settings(self) -> Settings:
        """What the user asked for."""
        return self._frameworks.settings

    def begin(self) -> None:
        """Set everything up; the program runs next."""
        Session.current = self
        if "HALFSTEP_TRIAL" in os.environ:
            self._files = FilesRead()
        self._writer.write("start", **self._start())
        self._shift_seeds(self.settings.seed)
        at_end(self._end)
        self._frameworks.begin(self._writer)

    def end(self) -> None:
        """Take the recipe off again, between two steps: the frameworks are what they were.

        Raises:
            UsageError: that cannot be done; the sentence says why. Everything stays as it is.
        """
        self._frameworks.check_undone()
        self._end(Ending("ok", None), program_goes_on=True)
        self._frameworks.remove()
        while self._unshift:
            self._unshift.pop()()
        Session.current = None

    @property
    def of_command(self) -> bool:
        """Whether `halfstep run` or a comparison runs the program, which so has one precision from start to end."""
        return self._stop.of_command

    @property
    def as_is(self) -> bool:
        """Whether the program runs as python runs it."""
        return self._frameworks.as_is

    def _follow(self, asked: Settings) -> None:
        """``as-is`` is what the script itself does, and it enables ``asked``."""
        mine = self.settings
        options = replace(asked.options, steps=mine.options.steps or asked.options.steps)
        self._frameworks.ask(replace(mine, precision=asked.precision, options=options))
        self._shift_seeds(asked.seed)
        self._frameworks.take_over_again()

    @property
    def takeover(self) -> Takeover | None:
        """The takeover of the framework that trains; None as long as none was imported."""
        return self._frameworks.training

    def _start(self) -> dict[str, object]:
        settings = self.settings
        return {
            "schema": SCHEMA,
            "halfstep": __version__,
            "precision": self._frameworks.name,
            "seed": settings.seed,
            "repeat": settings.repeat,
            "rank": rank(),
            "world_size": world_size(),
            "command": list(settings.command),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

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
            from halfstep.session.seeds import shift_seeds

            self._unshift.append(shift_seeds(seed))

    def _end(self, ending: Ending, program_goes_on: bool = False) -> None:
        """The program is over: write the record's last line, and the last lines on stderr."""
        if self._ended:
            return
        self._ended = True
        self._frameworks.close()
        takeover, failure = self.takeover, self._stop.failure
        steps = 0 if takeover is None else takeover.steps
        status, reason = failure or outcome(ending, takeover, steps)
        meters = {} if self._frameworks.meters is None else self._frameworks.meters.read()
        self._writer.write(
            "end",
            status=status,
            reason=reason,
            exit_code=ending.exit_code,
            exception=ending.exception,
            raised_at=asdict(ending.raised_at),
            files_read=[] if self._files is None else self._files.files(),
            steps=steps,
            skipped_steps=0 if takeover is None else takeover.skipped_here,
            **meters,
        )
        if failure is None:
            if steps or not program_goes_on:
                say_what_ran(self._frameworks.name, Ran.of(self._writer.kept), takeover)
            if self._frameworks.recipe is not None:
                say_cause(ending, self._frameworks.recipe)


def _open_record(path: str | None) -> Writer | NullWriter:
    """The writer of this rank's record."""
    if path is None:
        return NullWriter()
    return Writer(path if rank() == 0 else f"{path}.rank{rank()}")
