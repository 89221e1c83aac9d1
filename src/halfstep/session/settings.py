"""What the user asked of a session, and halfstep's own words on stderr."""

from __future__ import annotations

from dataclasses import dataclass

from halfstep.options import DEFAULTS, RunOptions
from halfstep.program.launching import rank
from halfstep.words.stderr import tell

AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        precision: a recipe's text, or ``auto``: the fastest that is native here.
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
    """Write a sentence to stderr, on the first rank only."""
    if rank() == 0:
        tell(text)
