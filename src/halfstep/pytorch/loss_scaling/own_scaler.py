"""What the script's own ``GradScaler`` reports, saves and loads while it is switched off.

It scales nothing, so its ``get_scale()`` is 1. Scripts compare that before and after ``update()``, so that a scheduler
makes no step after a skipped one. So after a skipped step it is one half (a quarter if the one before was skipped as
well, and so on), until the next loss is given to ``scale()``.

Its checkpoints are PyTorch's. ``state_dict`` has the scale of the recipe, if that scales the loss, and otherwise the
scale that the script's scaler began with or has loaded. So plain PyTorch goes on from them, and halfstep from
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from halfstep.passed_on import StateDict
from halfstep.precisions.loss_scale import DynamicScale
from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.patches import Patches

Scaler = torch.amp.GradScaler


@dataclass
class _Told:
    """What a scaler has seen last."""

    skipped: int  #: how many steps had been skipped when it got a loss
    skips_in_a_row: int  #: how many of its updates directly before had a skipped step
    updated: bool = False  #: whether ``update()`` has been called since


class OwnScalers:
    """The scalers of the script, which are switched off."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        #: the scalers that are switched off
        self._told = WeakIdKeyDictionary()

    def install(self, patches: Patches) -> None:
        """Wrap the methods by which scalers report, save and load."""
        if self._scaling.loss_scale.guards:
            patches.wrap(Scaler, "scale", self._scale)
            patches.wrap(Scaler, "update", self._update)
            patches.wrap(Scaler, "get_scale", self._get_scale)
            self._tell(patches, "skipped_steps", lambda: self._scaling.skipped)
            self._tell(patches, "last_step_skipped", lambda: self._scaling.last_skipped)
        patches.wrap(Scaler, "state_dict", self._state_dict)
        patches.wrap(Scaler, "load_state_dict", self._load_state_dict)

    def _tell(self, patches: Patches, name: str, figure: Callable[[], int]) -> None:
        """Let a property that only halfstep's own class has report the recipe's figure."""
        told: property = vars(GradScaler)[name]

        def tell(scaler: GradScaler) -> Any:
            return figure() if _rests(scaler) else told.fget(scaler)  # type: ignore[misc]

        patches.set(GradScaler, name, property(tell, doc=told.__doc__))

    def _scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def scale(scaler: Any, outputs: Any) -> Any:
            if _rests(scaler) and not torch.compiler.is_compiling():
                # This waits for earlier steps, as the next backward pass would.
                self._told[scaler] = _Told(self._scaling.skipped, self._skips_in_a_row(scaler))
            return original(scaler, outputs)

        return scale

    def _update(self, original: Callable[..., None]) -> Callable[..., None]:
        def update(scaler: Any, *args: Any, **kwargs: Any) -> None:
            original(scaler, *args, **kwargs)
            if scaler in self._told and not torch.compiler.is_compiling():
                self._told[scaler].updated = True

        return update

    def _get_scale(self, original: Callable[..., float]) -> Callable[..., float]:
        def get_scale(scaler: Any) -> float:
            told = self._told.get(scaler)
            after_update = told is not None and told.updated
            return original(scaler) / (2 ** self._skips_in_a_row(scaler) if after_update else 1)

        return get_scale

    def _skips_in_a_row(self, scaler: Any) -> int:
        """How many updates of ``scaler`` in a row, up to now, had a skipped step."""
        told = self._told.get(scaler)
        if told is None or not told.updated:
            return 0 if told is None else told.skips_in_a_row
        return told.skips_in_a_row + 1 if self._scaling.skipped > told.skipped else 0

    def _state_dict(self, original: Callable[..., StateDict]) -> Callable[..., StateDict]:
        def state_dict(scaler: Any) -> StateDict:
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
        def load_state_dict(scaler: Any, state: StateDict) -> None:
            if not _rests(scaler):
                original(scaler, state)
            elif state:  # an empty state is that of a scaler that was disabled
                with _awake(scaler):
                    original(scaler, state)
                self._go_on_from(state)

        return load_state_dict

    def _go_on_from(self, state: StateDict) -> None:
        """Take the scale, or the power of two below it."""
        value = float(state["scale"])
        if value > 0 and math.isfinite(value):
            skipped = self._scaling.skipped
            finite = int(state.get("_growth_tracker", 0))
            scale = 2.0 ** math.floor(math.log2(value))
            self._scaling.restore({"loss_scale": scale, "finite_steps": finite, "skipped_steps": skipped})


def _rests(scaler: Any) -> bool:
    """Whether the script has enabled it and the recipe has switched it off: only an enabled one has a first scale."""
    return hasattr(scaler, "_init_scale") and not scaler._enabled


@contextmanager
def _awake(scaler: Any) -> Iterator[None]:
    scaler._enabled = True
    try:
        yield
    finally:
        scaler._enabled = False
