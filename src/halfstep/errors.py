"""What goes wrong because of what the user asked: one sentence each, exit code 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfstep.words.safe_text import clean

if TYPE_CHECKING:
    from pathlib import Path


class HalfstepError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what was given, what is allowed, what to do. The command line prints it
    to stderr and exits with code 2. It may name what somebody else has written, so no escape sequence of it is left.

    Args:
        message: the sentence.
        see: the file or folder of halfstep's own that it sends its reader to.
    """

    exit_code = 2

    def __init__(self, message: str, *, see: Path | None = None) -> None:
        super().__init__(clean(message, lines=True))
        self.see = see


class UsageError(HalfstepError):
    """The command, a recipe or an argument is not of the right form."""


class Unsupported(HalfstepError):
    """This hardware, framework or version cannot do what the recipe asks. Never replaced by something else."""
