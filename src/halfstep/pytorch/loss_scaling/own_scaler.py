"""What the script's own ``GradScaler`` saves and loads while it rests and the recipe scales the loss.

Its checkpoints are PyTorch's: ``state_dict`` has the scale that the recipe is at, where it scales the loss, and
otherwise what the script's scaler began with or was loaded with. So plain PyTorch goes on from them, and halfstep from
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from halfstep.loss_scale import DynamicScale
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.patches import Patches

Scaler = torch.amp.GradScaler


class OwnScalers:
    """The scalers of the script that rest.

    Args:
        scaling: the recipe's.
    """

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling

    def install(self, patches: Patches) -> None:
        """Look in at what scalers save and load."""
        patches.wrap(Scaler, "state_dict", self._state_dict)
        patches.wrap(Scaler, "load_state_dict", self._load_state_dict)

    def _state_dict(self, original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def state_dict(scaler: Any) -> dict[str, Any]:
            if not _rests(scaler):
                return original(scaler)
            with _awake(scaler):
                state = original(scaler)
            scale = self._scaling.loss_scale
            if not scale.guards:
                return state
            finite = scale.finite_steps if isinstance(scale, DynamicScale) else 0
            return {**state, "scale": scale.value, "_growth_tracker": finite}

        return state_dict

    def _load_state_dict(self, original: Callable[..., None]) -> Callable[..., None]:
        def load_state_dict(scaler: Any, state: dict[str, Any]) -> None:
            if not _rests(scaler):
                original(scaler, state)
            elif state:  # an empty one is of a scaler that was switched off
                with _awake(scaler):
                    original(scaler, state)
                self._go_on_from(state)

        return load_state_dict

    def _go_on_from(self, state: dict[str, Any]) -> None:
        """Take the scale, or the power of two below it."""
        value = float(state["scale"])
        if value > 0 and math.isfinite(value):
            skipped = self._scaling.skipped
            finite = int(state.get("_growth_tracker", 0))
            scale = 2.0 ** math.floor(math.log2(value))
            self._scaling.restore({"loss_scale": scale, "finite_steps": finite, "skipped_steps": skipped})


def _rests(scaler: Any) -> bool:
    """Whether the script has switched it on, and the recipe off: only one that is on is given a first scale."""
    return hasattr(scaler, "_init_scale") and not scaler._enabled


@contextmanager
def _awake(scaler: Any) -> Iterator[None]:
    scaler._enabled = True
    try:
        yield
    finally:
        scaler._enabled = False
