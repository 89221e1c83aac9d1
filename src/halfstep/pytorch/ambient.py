"""One autocast around the whole program, without its traps.

PyTorch's own autocast is meant to be a short region. One that never ends needs care, and has it here:

- The cache of cast weights is dropped around every backward pass, after optimizer steps and ``no_grad`` regions: a
  weight may have changed there. Left alone it serves stale weights, and training stops learning, silently.
- Nothing is cached under ``no_grad`` or in a custom function's forward: a cast made there has no gradient, and
  would be served to a pass that needs one (pytorch#65766, #112583).
- The backward pass, PyTorch's clipping and the optimizer's arithmetic run outside autocast, as they do around a
  hand-written region.
- Threads that the program starts get it as well: autocast is thread-local.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import (
    clear_autocast_cache,
    is_autocast_enabled,
    is_grad_enabled,
    set_autocast_cache_enabled,
    set_autocast_enabled,
)

from halfstep.pytorch.dtypes import devices_here
from halfstep.pytorch.patches import Patches

_CLIPPING = {"clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"}

_compiling = torch._guards.CompileContext.try_get


class _Autocast(AbstractContextManager[None]):
    """On, or off, on some devices; then as it was. A class, since a generator takes twice as long, in every step."""

    def __init__(self, devices: Sequence[str], enabled: bool) -> None:
        self._devices, self._enabled = devices, enabled
        self._were: dict[str, bool] = {}

    def __enter__(self) -> None:
        for device in self._devices:
            self._were[device] = is_autocast_enabled(device)
            set_autocast_enabled(device, self._enabled)

    def __exit__(self, *_: object) -> None:
        for device, enabled in self._were.items():
            set_autocast_enabled(device, enabled)


class NoAmbient:
    """The recipe has no 16-bit products: no autocast."""

    dtype: torch.dtype | None = None

    def enter(self) -> None:
        """Nothing."""

    def leave(self) -> None:
        """Nothing."""

    def forget_casts(self) -> None:
        """Nothing."""

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to pause."""
        return nullcontext()

    def resumed(self) -> AbstractContextManager[None]:
        """Nothing to resume."""
        return nullcontext()


class Ambient(NoAmbient):
    """Autocast to ``dtype`` on every device, from :meth:`enter` on, in every thread started since."""

    def __init__(self, dtype: torch.dtype, patches: Patches) -> None:
        self.dtype: torch.dtype = dtype
        self._devices = devices_here()
        self._patches = patches
        self._before = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in self._devices]
        self._left = False

    def enter(self) -> None:
        self._enter_thread()
        patches = self._patches
        # no_grad makes a set_grad_enabled when it begins, and another when it ends.
        patches.wrap(torch.set_grad_enabled, "__init__", _then_cache_if_grad)
        for grad_mode in (torch.inference_mode, torch.set_grad_enabled):
            patches.wrap(grad_mode, "__exit__", self._then_forget)
        patches.wrap(torch.inference_mode, "__enter__", _then_stop_caching)
        patches.set(
            torch.autograd.Function, "apply", classmethod(_uncached_apply(torch.autograd.Function.apply))
        )
        for home in (torch.nn.utils, torch.nn.utils.clip_grad):
            for name in _CLIPPING & vars(home).keys():
                patches.wrap(home, name, self._outside)
        patches.wrap(threading.Thread, "_bootstrap_inner", self._in_thread)

    def leave(self) -> None:
        self._left = True
        for device, enabled, dtype in self._before:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(True)
        self.forget_casts()

    def forget_casts(self) -> None:
        """Drop the cached 16-bit copies of weights; no pass over memory, no sync."""
        clear_autocast_cache()

    def paused(self) -> AbstractContextManager[None]:
        """Autocast off: the backward pass and the optimizer's arithmetic keep the dtypes they are given."""
        return _Autocast(self._devices, False)

    def resumed(self) -> AbstractContextManager[None]:
        """Autocast on again inside :meth:`paused`: an optimizer's closure runs a forward pass."""
        return _Autocast(self._devices, True)

    def _enter_thread(self) -> None:
        for device in self._devices:
            torch.set_autocast_dtype(device, self.dtype)
            set_autocast_enabled(device, True)

    def _in_thread(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _bootstrap_inner(thread: threading.Thread) -> None:
            if not self._left:
                self._enter_thread()
            original(thread)

        return _bootstrap_inner

    def _outside(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def outside(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return original(*args, **kwargs)
            with self.paused():
                return original(*args, **kwargs)

        return outside

    def _then_forget(self, original: Callable[..., Any]) -> Callable[..., Any]:
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
    """Nothing while a compiler traces: its own grad modes are not the program's, and it allows no such change."""
    if _compiling() is not None:
        return
    if forget:
        clear_autocast_cache()
    set_autocast_cache_enabled(grad)


def _uncached_apply(original: Callable[..., Any]) -> Callable[..., Any]:
    function: Callable[..., Any] = original.__func__  # type: ignore[attr-defined]

    @functools.wraps(function)
    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return function(cls, *args, **kwargs)
        finally:
            torch.set_autocast_cache_enabled(cached)

    return apply
