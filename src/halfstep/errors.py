"""What goes wrong because of what the user asked: one sentence each, exit code 2."""

from __future__ import annotations


class HalfstepError(Exception):
    """A mistake that the user can mend.

    The message is one sentence: what was given, what is allowed, what to do. The command line prints it
    to stderr and exits with code 2.
    """

    exit_code = 2


class UsageError(HalfstepError):
    """The command, a recipe or an argument is not of the right form."""


class Unsupported(HalfstepError):
    """This hardware, framework or version cannot do what the recipe asks. Never replaced by something else."""
