"""Autocast of this thread: on, off, and where in the program the thread is.

PyTorch keeps autocast's state per thread, and its compiler guards compiled code by it. So the place where a thread is
(outside of every region, in a region around several calls, or inside a model's call) is kept there, too: as the
autocast dtype of a device type that nobody has here. Compiled code is then made once per place, as it is once per
autocast dtype.

The cache of cast weights is kept while gradients are recorded, over several calls of a model, and needs care:

- It is dropped before and after every backward pass, after optimizer steps and ``no_grad`` regions: a weight may have
  changed there. Left alone it serves stale weights, and training stops learning, silently.
- Nothing is cached while a CUDA graph is captured, whose replays would use that cast of the weights for ever.
- Nothing is cached under ``no_grad`` or in a custom function's forward: a cast made there has no gradient, and would
  be served to a pass that needs one (pytorch#65766, #112583).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import (
    clear_autocast_cache,
    get_autocast_dtype,
    is_autocast_enabled,
    is_grad_enabled,
    set_autocast_cache_enabled,
    set_autocast_dtype,
    set_autocast_enabled,
)

from halfstep.pytorch.devices import capturing
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches

#: the device type whose autocast dtype says where a thread is; no current build of PyTorch has tensors of it
PLACE = "ipu"

#: outside of every region: PyTorch's default for that device
OUTSIDE = torch.float16
#: in a region that is open around several calls: the script's own, or one from a layer to the backward pass
AROUND = torch.bfloat16
#: inside the call of a model, or in a region of a framework: module calls in there are parts of it
INSIDE = torch.float32

#: stands for ``cache_enabled``, which is a bool in a script's ``torch.autocast``, where activation checkpointing
#: recomputes what was computed inside a model, in which autocast may have been off
RECOMPUTES = 3

_compiling = torch._guards.CompileContext.try_get


def place() -> torch.dtype:
    """Where this thread is: OUTSIDE, AROUND or INSIDE."""
    return get_autocast_dtype(PLACE)


def set_place(where: torch.dtype) -> None:
    """Say where this thread is from now on."""
    set_autocast_dtype(PLACE, where)


class Switched(AbstractContextManager[None]):
    """Autocast on or off on some devices; afterwards as before, or as outside if the region around has ended meanwhile.

    A class: a generator takes twice as long, in every step.

    Args:
        devices: device types.
        enabled: on or off.
        where: the place that it puts the thread in; None leaves the thread where it is.
        outside: whether autocast is on outside of every region.
    """

    def __init__(
        self, devices: Sequence[str], enabled: bool, where: torch.dtype | None = None, outside: bool = False
    ) -> None:
        self._devices, self._enabled, self._where, self._outside = devices, enabled, where, outside
        self._were: dict[str, bool] = {}
        self._outer = OUTSIDE

    def __enter__(self) -> None:
        if self._where is not None:
            self._outer = place()
            set_place(self._where)
        for device in self._devices:
            self._were[device] = is_autocast_enabled(device)
            set_autocast_enabled(device, self._enabled)

    def __exit__(self, *_: object) -> None:
        if self._where is not None:
            set_place(self._outer)
        on = self._outside or place() is not OUTSIDE
        for device, enabled in self._were.items():
            set_autocast_enabled(device, enabled and on)


class Region(AbstractContextManager[None]):
    """Autocast to ``dtype`` on some devices, in this thread; afterwards as before.

    A tensor that is made in it without a dtype is float32, also where the program's default is 16-bit.

    Args:
        devices: device types.
        dtype: what products compute in. float32 is allowed: 16-bit and mixed operands are then promoted to it.
        where: the place that it puts the thread in, AROUND or INSIDE.
    """

    def __init__(self, devices: Sequence[str], dtype: torch.dtype, where: torch.dtype) -> None:
        self._devices, self._dtype, self._where = devices, dtype, where
        self._before: list[tuple[str, bool, torch.dtype]] = []
        self._outer = OUTSIDE
        self._cached = True
        self._default = torch.float32

    def __enter__(self) -> None:
        self._outer, self._cached = place(), torch.is_autocast_cache_enabled()
        set_place(self._where)
        captured = capturing()
        if captured:  # a replay has to cast the weights as they are then, not to reuse an earlier cast
            clear_autocast_cache()
        set_autocast_cache_enabled(is_grad_enabled() and not captured)
        self._before = switch_on(self._devices, self._dtype)
        self._default = torch.get_default_dtype()
        if self._default in SIXTEEN_BIT:
            torch.set_default_dtype(torch.float32)

    def __exit__(self, *_: object) -> None:
        if self._default in SIXTEEN_BIT:
            torch.set_default_dtype(self._default)
        switch_back(self._before)
        set_autocast_cache_enabled(self._cached)
        set_place(self._outer)
        if not is_grad_enabled():
            clear_autocast_cache()


def switch_on(devices: Sequence[str], dtype: torch.dtype) -> list[tuple[str, bool, torch.dtype]]:
    """Autocast to ``dtype`` in this thread; returns what :func:`switch_back` needs."""
    before = []
    for device in devices:
        before.append((device, is_autocast_enabled(device), get_autocast_dtype(device)))
        set_autocast_dtype(device, dtype)
        set_autocast_enabled(device, True)
    return before


def switch_back(before: Sequence[tuple[str, bool, torch.dtype]]) -> None:
    """Undo :func:`switch_on`."""
    for device, enabled, dtype in before:
        set_autocast_enabled(device, enabled)
        set_autocast_dtype(device, dtype)


def keep_cache_whole(patches: Patches) -> None:
    """No cast without a gradient is cached, and none outlives a ``no_grad`` region, or is baked into a CUDA graph."""
    for home in (torch.cuda, torch.cuda.graphs):
        patches.wrap(home, "make_graphed_callables", _without_cache)
    # no_grad makes a set_grad_enabled when it begins, and another when it ends.
    patches.wrap(torch.set_grad_enabled, "__init__", _then_cache_if_grad)
    for grad_mode in (torch.inference_mode, torch.set_grad_enabled):
        patches.wrap(grad_mode, "__exit__", _then_forget)
    patches.wrap(torch.inference_mode, "__enter__", _then_stop_caching)


def recompute_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let activation checkpointing restore the place of the thread, too, before it recomputes."""

    def _get_autocast_kwargs(*args: Any, **kwargs: Any) -> Any:
        of_device, of_cpu = original(*args, **kwargs)
        if place() is INSIDE:
            of_cpu["cache_enabled"] = RECOMPUTES
        return of_device, of_cpu

    return _get_autocast_kwargs


def _without_cache(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``make_graphed_callables``, which refuses to run where casts are cached."""

    def make_graphed_callables(*args: Any, **kwargs: Any) -> Any:
        cached = torch.is_autocast_cache_enabled()
        clear_autocast_cache()
        set_autocast_cache_enabled(False)
        try:
            return original(*args, **kwargs)
        finally:
            set_autocast_cache_enabled(cached)

    return make_graphed_callables


def _then_forget(original: Callable[..., Any]) -> Callable[..., Any]:
    def __exit__(context: Any, *exc: Any) -> Any:
        result = original(context, *exc)
        _cache_if(is_grad_enabled(), forget=True)
        return result

    return __exit__


def _then_stop_caching(original: Callable[..., Any]) -> Callable[..., Any]:
    def __enter__(context: Any) -> Any:
        result = original(context)
        _cache_if(is_grad_enabled(), forget=False)
        return result

    return __enter__


def _then_cache_if_grad(original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(context: Any, mode: bool) -> None:
        original(context, mode)
        _cache_if(mode, forget=True)

    return __init__


def _cache_if(grad: bool, forget: bool) -> None:
    """Cache casts if ``grad``; do nothing while a compiler traces, whose grad modes are not the program's."""
    if _compiling() is not None:
        return
    if forget:
        clear_autocast_cache()
    set_autocast_cache_enabled(grad)
