"""The lower precision that the script itself asks for; each kind of it is recorded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class OwnPrecision:
    """The script's own mixed precision: if there is any, ``as-is`` becomes a row of a comparison.

    Args:
        want: called where the script has asked for regions.
        on_gpu: tells whether the program trains on a GPU of CUDA.
    """

    def __init__(
        self, write: Callable[..., None], want: Callable[[], None], on_gpu: Callable[[], bool]
    ) -> None:
        self._write = write
        self._want = want
        self._on_gpu = on_gpu
        self.seen: set[str] = set()

    def note(self, what: str, asks: str | None = None) -> None:
        """The script has mixed precision of its own, which asks for the format ``asks``."""
        if what not in self.seen:
            self.record(what, asks)
            self._want()

    def record(self, what: str, asks: str | None = None) -> None:
        """Record it once; the recipe opens no regions for its sake."""
        if what not in self.seen:
            self.seen.add(what)
            self._write("own_amp", what=what, **({} if asks is None else {"asks": asks}))

    def asks_for_fewer_bits(self, what: str, value: Any) -> None:
        """The script lets products of fp32 numbers run in units of fewer bits; recorded if this machine has them."""
        if self._on_gpu() or (value in ("bf16", "medium") and torch.cpu._is_amx_tile_supported()):
            self.record(what)
