"""Counts and capitals in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """A count with its noun: ``1 step``, ``2 steps``, ``1,200 steps``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def were_made(steps: int) -> str:
    """``1 step was made``, ``2 steps were made``."""
    return f"{count(steps, 'step')} {'was' if steps == 1 else 'were'} made"


def capitalized(clause: str) -> str:
    """A clause with a capital first letter; all other letters stay as they are."""
    return clause[:1].upper() + clause[1:]
