"""The script's own mixed precision yields to the recipe: ``autocast`` and ``GradScaler``, old spellings too.

``torch.cuda.amp.autocast`` and ``torch.cpu.amp.autocast`` are subclasses of ``torch.amp.autocast``, and
``torch.cuda.amp.GradScaler`` of ``torch.amp.GradScaler``: patching the two base constructors reaches them all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch.amp.autocast_mode import _UnmanagedAutocast

from halfstep.pytorch.already_made import AlreadyMade
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.program_region import ProgramRegion
from halfstep.pytorch.autocast.state import AROUND, INSIDE, RECOMPUTES
from halfstep.pytorch.callers import Caller
from halfstep.pytorch.patches import Patches, never_traced

#: the attribute of an autocast that holds the place that it puts a thread in
_WHERE = "_halfstep_where"
#: the attribute of an autocast that holds the dtype and the switch that the script asked for
_ASKED = "_halfstep_asked"

Note = Callable[[str], None]
#: called with losses, and with the same losses multiplied by the scale of the script's own scaler
Scaled = Callable[[Sequence[Any], Sequence[Any]], None]


def yield_to(regions: NoRegions, note: Note, promote: Callable[[], None], patches: Patches) -> None:
    """Let the recipe choose what the script's own autocast regions compute in, and let its scalers rest.

    A region that is off inside a model's call, or inside a region that is on, asks for full precision there, and gets
    it. A region that is off around whole calls (``autocast(enabled=args.amp)``) only says that the script's AMP is
    switched off: the recipe applies to the calls in it.

    Args:
        regions: the recipe's.
        note: called with ``"autocast"`` or ``"GradScaler"`` when the script uses one.
        promote: called when the script's region asks for another 16-bit format than the recipe's: its other code may
            hold tensors of that format, which meet what its region gave.
    """
    patches.wrap(
        torch.amp.autocast,
        "__init__",
        lambda original: _autocast_init(original, regions.dtype, note, promote),
    )
    if isinstance(regions, ProgramRegion):
        patches.wrap(torch.amp.autocast, "__enter__", lambda original: _entering(original, regions))
        patches.wrap(torch.amp.autocast, "__exit__", lambda original: _leaving(original, regions))
    patches.wrap(torch.amp.GradScaler, "__init__", lambda original: _scaler_init(original, note))


def adopt(made: AlreadyMade, dtype: torch.dtype | None, note: Note) -> None:
    """Regions and scalers that the script made before yield to the recipe, too."""
    for region in made.autocasts:
        vars(region).setdefault(_ASKED, (region.fast_dtype, region._enabled))
        vars(region)[_WHERE] = AROUND
        if region._enabled:
            note("autocast")
            region.fast_dtype, region._enabled = dtype or region.fast_dtype, dtype is not None
    for scaler in made.scalers:
        if scaler._enabled:
            note("GradScaler")
            scaler._enabled = False


def give_back(made: AlreadyMade) -> None:
    """Regions are what the script asked for, and its scalers scale."""
    for region in made.autocasts:
        if _ASKED in vars(region):
            region.fast_dtype, region._enabled = vars(region).pop(_ASKED)
    for scaler in made.scalers:
        if hasattr(scaler, "_init_scale"):  # the script has switched it on
            scaler._enabled = True


def watch_only(note: Note, scaled: Scaled, patches: Patches) -> None:
    """Leave the script's AMP in force (``as-is``); only note that there is some, and what its scaler scales.

    Args:
        note: as in :func:`yield_to`.
        scaled: called with what the script's scaler was given and what it returned.
    """

    def watching(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def wrap(original: Callable[..., None]) -> Callable[..., None]:
            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                original(self, *args, **kwargs)
                if getattr(self, "_enabled", False) and _caller().is_script:
                    note(what)

            return __init__

        return wrap

    patches.wrap(torch.amp.autocast, "__init__", watching("autocast"))
    patches.wrap(torch.amp.GradScaler, "__init__", watching("GradScaler"))
    patches.wrap(torch.amp.GradScaler, "scale", lambda original: _scale(original, scaled))


def _scale(original: Callable[..., Any], scaled: Scaled) -> Callable[..., Any]:
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if isinstance(outputs, torch.Tensor):
            scaled([outputs], [result])
        elif isinstance(outputs, list | tuple):  # an iterator is used up by now, and its result is one, too
            scaled(outputs, result)
        return result

    return scale


def _autocast_init(
    original: Callable[..., None], dtype: torch.dtype | None, note: Note, promote: Callable[[], None]
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
        ours = cache_enabled is not None and not isinstance(cache_enabled, bool)
        vars(self)[_ASKED] = (wanted or torch.get_autocast_dtype(device_type), enabled)
        self._halfstep_where = INSIDE if enabled or cache_enabled == RECOMPUTES else AROUND
        caller = _caller() if enabled and not ours else None
        if caller is not None and (caller.is_script or isinstance(self, _UnmanagedAutocast)):
            note("autocast")
            self._halfstep_where = INSIDE if caller.is_library else AROUND
            if (wanted or torch.get_autocast_dtype(device_type)) is not dtype:
                promote()
        if dtype is None or dtype is torch.float32 or ours:
            original(self, device_type, wanted, False, None if ours else cache_enabled, **kwargs)
        else:
            original(self, device_type, dtype, enabled, cache_enabled, **kwargs)
        if enabled and dtype is not None:
            promoted = cache_enabled == RECOMPUTES and wanted is torch.float32
            self.fast_dtype, self._enabled = torch.float32 if promoted else dtype, True

    return never_traced(__init__)


def _entering(original: Callable[..., Any], regions: ProgramRegion) -> Callable[..., Any]:
    def __enter__(self: Any) -> Any:
        outer = regions.outer()
        vars(self).setdefault("_halfstep_outer", []).append(outer)
        result = original(self)
        regions.entered(outer, self.fast_dtype if self._enabled else None, self._halfstep_where)
        return result

    return never_traced(__enter__)


def _leaving(original: Callable[..., Any], regions: ProgramRegion) -> Callable[..., Any]:
    def __exit__(self: Any, *exc: Any) -> Any:
        result = original(self, *exc)
        if outers := vars(self).get("_halfstep_outer"):  # else it was entered before the recipe was in force
            regions.left(outers.pop())
        return result

    return never_traced(__exit__)


def _scaler_init(original: Callable[..., None], note: Note) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self._enabled:
            if not _caller().is_adapter:  # an adapter makes it for a framework, whose flag has been noted
                note("GradScaler")
            # A disabled scaler returns losses untouched, steps the optimizer and reports a scale of 1.
            self._enabled = False

    return __init__


def _caller() -> Caller:
    """The first caller outside of PyTorch's amp modules and this file; without a name and file where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith(("torch.amp", "torch.cuda.amp", "torch.cpu.amp")):
            return Caller.of(frame)
        frame = frame.f_back
    return Caller("", "")
