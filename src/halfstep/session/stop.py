"""Ends the program because of an error of halfstep's own."""

from __future__ import annotations

from typing import NoReturn

from halfstep.errors import HalfstepError, Unsupported
from halfstep.session.settings import say


class Stop:
    """Ends the program with one sentence instead of a traceback, where halfstep runs it.

    Attributes:
        of_command: whether ``halfstep run`` or a comparison runs the program, and so may end it.
        failure: the trial's status and the sentence; None as long as nothing has ended it.
    """

    def __init__(self, of_command: bool) -> None:
        self.of_command = of_command
        self.failure: tuple[str, str] | None = None

    def halt(self, error: HalfstepError) -> None:
        """End the program because of this error, if halfstep runs it; else return, and the caller raises the error."""
        if self.failure is None:
            kind = "unsupported" if isinstance(error, Unsupported) else "failed"
            self.failure = ("diverged" if error.exit_code == 1 else kind, str(error))
        if self.of_command:
            say(str(error))
            raise SystemExit(error.exit_code)

    def refuse(self, error: HalfstepError) -> NoReturn:
        """As :meth:`halt`, for a recipe that cannot be put into force.

        Raises:
            HalfstepError: the error itself, if halfstep does not run the program.
        """
        self.failure = ("unsupported", str(error))
        self.halt(error)
        raise error
