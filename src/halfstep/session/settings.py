"""What the user asked of a session, and halfstep's own words on stderr."""

from __future__ import annotations

from dataclasses import dataclass

from halfstep.options import DEFAULTS, RunOptions
from halfstep.program.launching import rank
from halfstep.words.stderr import tell

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    precision: str = AUTO  #: a recipe's text, or ``auto``: the fastest that is native here
    options: RunOptions = DEFAULTS
    seed: int | None = None  #: shift every seed by this; None to leave seeds alone
    record: str | None = None  #: file to write the record to
    command: tuple[str, ...] = ()  #: the program and its arguments, for the record
    repeat: int = 0  #: which repeat of a comparison this is
    watch: bool = False  #: look at every operation, for a diagnosis
    graphs: bool = False  #: compare each compiled graph with the same graph run eagerly


def say(text: str) -> None:
    """Write a sentence to stderr, on the first rank only."""
    if rank() == 0:
        tell(text)
