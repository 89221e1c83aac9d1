"""The script's own mixed precision yields to the recipe: ``autocast`` and ``GradScaler``, old spellings too.

``torch.cuda.amp.autocast`` and ``torch.cpu.amp.autocast`` are subclasses of ``torch.amp.autocast``, and
``torch.cuda.amp.GradScaler`` of ``torch.amp.GradScaler``: patching the two base constructors reaches them all.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch

from halfstep.pytorch.patches import Patches

Note = Callable[[str], None]
#: called with losses, and with the same times the scale of the script's own scaler
Scaled = Callable[[Sequence[Any], Sequence[Any]], None]


def yield_to(dtype: torch.dtype | None, note: Note, patches: Patches) -> None:
    """Make the script's own autocast regions use ``dtype``, or do nothing if it is None, and its scalers rest.

    Regions with ``enabled=False`` stay as they are: there the script asks for full precision.

    Args:
        dtype: the recipe's 16-bit dtype, or None for recipes without.
        note: called with ``"autocast"`` or ``"GradScaler"`` when the script uses one.
        patches: where the replaced constructors are remembered.
    """
    _blame_the_script(patches)
    patches.wrap(torch.amp.autocast, "__init__", lambda original: _autocast_init(original, dtype, note))
    patches.wrap(torch.amp.GradScaler, "__init__", lambda original: _scaler_init(original, note))


def watch_only(note: Note, scaled: Scaled, patches: Patches) -> None:
    """Leave the script's AMP in force (``as-is``), and only note that it has some and what its scaler scales.

    Args:
        note: as in :func:`yield_to`.
        scaled: called with what the script's scaler was given and what it returned.
        patches: where the replaced functions are remembered.
    """

    def watching(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def wrap(original: Callable[..., None]) -> Callable[..., None]:
            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                original(self, *args, **kwargs)
                if getattr(self, "_enabled", False) and _called_by_script():
                    note(what)

            return __init__

        return wrap

    _blame_the_script(patches)
    patches.wrap(torch.amp.autocast, "__init__", watching("autocast"))
    patches.wrap(torch.amp.GradScaler, "__init__", watching("GradScaler"))
    patches.wrap(torch.amp.GradScaler, "scale", lambda original: _scale(original, scaled))


def _blame_the_script(patches: Patches) -> None:
    """Let what PyTorch's constructors warn of name the line that it names without ours around them."""
    for module in ("autocast_mode", "grad_scaler"):
        patches.set(sys.modules[f"torch.amp.{module}"], "warnings", _Warnings())


class _Warnings:
    """``warnings``, as a module sees it that calls ``warn``: the frames of this file are not counted."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, source: Any = None) -> None:
        ours = sys._getframe(2).f_globals.get("__name__") == __name__
        warnings.warn(message, category, stacklevel + 1 + (ours and stacklevel > 1), source)


def _scale(original: Callable[..., Any], scaled: Scaled) -> Callable[..., Any]:
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if isinstance(outputs, torch.Tensor):
            scaled([outputs], [result])
        elif isinstance(outputs, list | tuple):  # an iterator is used up by now, and so is what came of it
            scaled(outputs, result)
        return result

    return scale


def _autocast_init(
    original: Callable[..., None], dtype: torch.dtype | None, note: Note
) -> Callable[..., None]:
    def __init__(
        self: Any,
        device_type: str,
        dtype_: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
        **kwargs: Any,
    ) -> None:
        wanted = kwargs.pop("dtype", dtype_)
        if enabled and _called_by_script():
            note("autocast")
        if enabled and isinstance(device_type, str):
            wanted, enabled = (wanted, False) if dtype is None else (dtype, True)
        original(self, device_type, wanted, enabled, cache_enabled, **kwargs)

    return __init__


def _scaler_init(original: Callable[..., None], note: Note) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self._enabled:
            note("GradScaler")
            # A disabled scaler returns losses untouched, steps the optimizer and reports a scale of 1.
            self._enabled = False

    return __init__


def _called_by_script() -> bool:
    """Whether the first caller outside of PyTorch's amp modules and this file is not PyTorch itself.

    Activation checkpointing, for one, opens autocast regions of its own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith(("torch.amp", "torch.cuda.amp", "torch.cpu.amp")):
            return not name.startswith(("torch.", "halfstep."))
        frame = frame.f_back
    return False
