"""Looks that raise: a test is to see an error, which a takeover would record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfstep.takeover.looks import Looks, Result


class NoLooks(Looks):
    """Nothing is guarded."""

    def __init__(self) -> None:
        super().__init__(lambda event, **fields: None)

    def run(
        self, look: str, tries: int, function: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> Result | None:
        return function(*args, **kwargs)
