"""Finds what the script does around a step that the lines to adopt have to do, too: clipping and accumulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from halfstep.pytorch.patches import Patches
from halfstep.takeover.looks import Looks, look

_NAME = "clipping and accumulation"


class ScriptTraits:
    """Watches the first step; it costs one counter per backward pass.

    Args:
        write: writes an event; called once.
    """

    def __init__(self, write: Callable[..., None], looks: Looks) -> None:
        self._write = write
        self._looks = looks
        self._passes = 0
        self._clipping: str | None = None

    def install(self, patches: Patches) -> None:
        """Follow PyTorch's two clipping functions."""
        for home in (torch.nn.utils, torch.nn.utils.clip_grad):
            patches.wrap(home, "clip_grad_norm_", lambda original: self._noting(original, "norm"))
            patches.wrap(home, "clip_grad_value_", lambda original: self._noting(original, "value"))

    def _noting(self, original: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def clip(*args: Any, **kwargs: Any) -> Any:
            self._clipping = kind  # nothing is read here: a compiler would compile anew when it changes
            return original(*args, **kwargs)

        return clip

    @look(_NAME)
    def backward(self) -> None:
        """A backward pass is about to start."""
        self._passes += 1

    @look(_NAME)
    def stepped(self) -> None:
        """An optimizer has stepped for the first time."""
        self._write("takeover", clipping=self._clipping, passes=self._passes)
