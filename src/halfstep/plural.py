"""Counts in words."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """A count with its noun: ``1 step``, ``2 steps``."""
    return f"{number} {noun}{'s' * (number != 1)}"
