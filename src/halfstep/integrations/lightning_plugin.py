"""Lightning's ``MixedPrecision`` plugin with halfstep's loss scaling, for those who write their Trainer themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from halfstep.errors import UsageError
from halfstep.precisions.recipes import canonical_name
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.dtypes import DTYPES
from halfstep.pytorch.grad_scaler.grad_scaler import GradScaler
from halfstep.pytorch.loss_scaling.statistics import Statistics
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.products import install, plan

_LIGHTNING_NAMES = {"fp16": "16-mixed", "bf16": "bf16-mixed"}


class _Plugin:
    """Mixed precision in Lightning's own loop, with what its own plugin lacks.

    - fp16 runs as fp16 on a CPU, too, where it has no such units with its products in fp32 units.
    - The loss is scaled by :class:`halfstep.pytorch.GradScaler`: a floor, and ``scaler.skipped_steps``.
    - LBFGS works. A skipped step leaves BatchNorm's running statistics as they were.

    Checkpoints are interchangeable with those of Lightning's own plugin, in both directions.

    Args:
        precision: ``fp16`` or ``bf16``, or Lightning's names ``16-mixed`` and ``bf16-mixed``.
        device: the device type that autocast is for; the accelerator if there is one.
        scaler: for fp16; made if it is not given.

    Raises:
        UsageError: another precision, or a scaler for bf16.
    """

    _base: Any

    def __init__(self, precision: str = "fp16", device: str | None = None, scaler: Any = None) -> None:
        name = canonical_name(precision)
        if name not in _LIGHTNING_NAMES:
            raise UsageError(
                f"halfstep.lightning.MixedPrecision was given precision {precision!r}; it must be fp16 or bf16."
            )
        if scaler is not None and name == "bf16":
            raise UsageError("MixedPrecision('bf16') scales no loss, but was given a scaler; leave it out.")
        self.precision = _LIGHTNING_NAMES[name]
        self.device = device or device_types()[-1]
        self.scaler = GradScaler("cpu") if name == "fp16" and scaler is None else scaler
        self._dtype = DTYPES[name]
        # Made in the process that trains: a Trainer is pickled when it spawns processes.
        self._statistics: Statistics | None = None

    def connect(self, model: Any, optimizers: Any, schedulers: Any) -> tuple[Any, Any, Any]:
        """Training is about to begin."""
        if self.scaler is not None and self._statistics is None:
            self._statistics = Statistics()
            self._statistics.install(Patches())
        if plan([self._dtype], "auto"):
            install([self._dtype], "auto")
        return model, optimizers, schedulers

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast on the CPU as well: a Trainer may have been told to use it although there is an accelerator."""
        with torch.autocast("cpu", dtype=self._dtype, cache_enabled=False), self._base.forward_context(self):
            yield

    def optimizer_step(self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any) -> Any:
        """Step, or skip where a gradient is not finite."""
        if self.scaler is None or not isinstance(optimizer, torch.optim.LBFGS):
            result = self._base.optimizer_step(self, optimizer, model, closure, **kwargs)
        else:
            result = self._step_with_closure(optimizer, model, closure, **kwargs)
        if self._statistics is not None:
            self._statistics.stepped(finite=not getattr(self.scaler, "last_step_skipped", False))
        return result

    def _step_with_closure(
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """LBFGS evaluates the closure as often as it likes, on true and clipped gradients each time."""

        def evaluate() -> Any:
            loss = closure()
            self.scaler.unscale_(optimizer)
            self._base._after_closure(self, model, optimizer)
            return loss

        result = self.scaler.step(optimizer, evaluate, **kwargs)
        self.scaler.update()
        return result


@functools.cache
def plugin_for(lightning: str) -> type:
    """The plugin's class for ``lightning.pytorch`` or ``pytorch_lightning``, a subclass of its MixedPrecision."""
    base = import_module(f"{lightning}.plugins.precision").MixedPrecision
    names = {"__module__": "halfstep.lightning", "__qualname__": "MixedPrecision", "__doc__": _Plugin.__doc__}
    return type("MixedPrecision", (_Plugin, base), {**names, "_base": base})
