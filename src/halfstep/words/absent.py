"""What a record lacks, in words."""

from __future__ import annotations


def failed_look(look: str, why: str) -> str:
    """What the record lacks, and why."""
    return f"{look}: not all there, because halfstep failed to look ({why}); the program itself went on undisturbed"
