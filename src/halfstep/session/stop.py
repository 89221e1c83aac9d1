"""The error of halfstep's own that ends the program."""

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
        """End the program for this error; where a script of its own accord uses halfstep, the caller raises it."""
        if self.failure is None:
            kind = "unsupported" if isinstance(error, Unsupported) else "failed"
            self.failure = ("diverged" if error.exit_code == 1 else kind, str(error))
        if self.of_command:
            say(str(error))
            raise SystemExit(error.exit_code)

    def refuse(self, error: HalfstepError) -> NoReturn:
        """As :meth:`halt`: the recipe cannot be put into force, whatever the error.

        Raises:
            HalfstepError: the error itself, where the program is not the command's.
        """
        self.failure = ("unsupported", str(error))
        self.halt(error)
        raise error
