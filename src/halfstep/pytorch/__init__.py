"""halfstep in PyTorch: the takeover, and two public names for those who write the training loop themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfstep.unseen_importlib_bootstrap import through_here

if TYPE_CHECKING:
    from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler as GradScaler
    from halfstep.pytorch.rounding.rounding import round_to as round_to

__path__ = through_here(__path__)
__all__ = ["GradScaler", "round_to"]

_HOMES = {
    "GradScaler": "halfstep.pytorch.grad_scaler.grad_scaler",
    "round_to": "halfstep.pytorch.rounding.rounding",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'halfstep.pytorch' has no attribute {name!r}")
