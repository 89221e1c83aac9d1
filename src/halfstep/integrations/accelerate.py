"""Accelerate: ``mixed_precision=`` yields to the recipe; optimizers report the steps that the recipe skips.

Under a 16-bit recipe prepared models still return float32, as Accelerate's own mixed precision has them do, so that
a script may hand their outputs to NumPy. What computes is the recipe's.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from halfstep.integrations import launchers
from halfstep.integrations.attached import Attached, resting_scaler
from halfstep.passed_on import Keywords

#: where training runs inside an engine of its own, of which PyTorch's autograd and optimizers see nothing
_ENGINES = ("DEEPSPEED", "MEGATRON_LM", "XLA")


def install(accelerate: ModuleType, attached: Attached) -> None:
    """Take over ``accelerate``, just imported."""
    attached.require("accelerate", accelerate.__version__)
    patches, accelerator = attached.takeover.patches, accelerate.Accelerator
    patches.wrap(accelerator, "__init__", lambda original: _making(original, attached))
    patches.wrap(accelerator, "log", lambda original: _logging(original, attached))
    if attached.as_is:
        return
    patches.set(import_module("accelerate.accelerator"), "get_mixed_precision_context_manager", _region)
    patches.wrap(accelerator, "prepare_model", lambda original: _preparing(original, attached))
    # `accelerate launch` of one process starts it by a command that this makes.
    patches.wrap(accelerate.utils, "prepare_simple_launcher_cmd_env", lambda _: _launching(attached))
    optimizer = import_module("accelerate.optimizer").AcceleratedOptimizer
    patches.wrap(optimizer, "step", lambda original: _stepping(original, attached))


def _launching(attached: Attached) -> Callable[..., None]:
    def prepare_simple_launcher_cmd_env(arguments: Any) -> None:
        launchers.refuse(attached)

    return prepare_simple_launcher_cmd_env


def _making(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        # device_placement and split_batches come before mixed_precision in the signature.
        given = args[2] if len(args) > 2 else kwargs.get("mixed_precision")
        asked = str(given or os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
        if asked != "no":
            attached.asks_for(f"Accelerator(mixed_precision={asked!r})", asked)
        if attached.as_is:
            original(self, *args, **kwargs)
        else:
            args, kwargs = _without_precision(args, kwargs)
            original(self, *args, **kwargs)
            _refuse_engines(attached, self.distributed_type.name)
            # Prepared models run in an autocast region, which is the recipe's, and return float32.
            recipe = attached.takeover.recipe
            self.native_amp = recipe.mixed or (recipe.weights == "fp32" and asked != "no")
            if asked == "fp16" or attached.scaler_expected:
                handler = self.scaler_handler
                self.scaler = resting_scaler(
                    self.device.type, **({} if handler is None else handler.to_kwargs())
                )
        attached.driven_by("accelerate")

    return __init__


def _preparing(original: Callable[..., Any], attached: Attached) -> Callable[..., Any]:
    def prepare_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.native_amp:
            attached.takeover.regions.of_framework()
        return original(self, *args, **kwargs)

    return prepare_model


def _without_precision(args: tuple[Any, ...], kwargs: Keywords) -> tuple[tuple[Any, ...], Keywords]:
    """The constructor's arguments without mixed precision and the recipes of fp8 that need it."""
    if len(args) > 2:
        args = (*args[:2], "no", *args[3:])
    else:
        kwargs = kwargs | {"mixed_precision": "no"}
    handlers = kwargs.get("kwargs_handlers")
    if handlers:
        kept = [handler for handler in handlers if "Recipe" not in type(handler).__name__]
        kwargs = kwargs | {"kwargs_handlers": kept}
    return args, kwargs


def _refuse_engines(attached: Attached, kind: str) -> None:
    if kind in _ENGINES:
        attached.refuse(
            f"Accelerate's distributed type {kind} trains inside an engine that halfstep does not take over; "
            "use DDP or FSDP, or run with --precision as-is."
        )


def _region(native_amp: bool = False, autocast_kwargs: Any = None) -> contextlib.AbstractContextManager[Any]:
    """What prepared models and ``accelerator.autocast()`` run in; the recipe chooses the dtype."""
    if not native_amp:
        return contextlib.nullcontext()
    state = import_module("accelerate.state").AcceleratorState()
    options = {} if autocast_kwargs is None else autocast_kwargs.to_kwargs()
    return torch.autocast(state.device.type, **options)


def _stepping(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def step(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        if optimizer.gradient_state.sync_gradients:
            # Schedulers, and whoever asks optimizer_step_was_skipped, leave a skipped step out.
            optimizer._is_overflow = attached.takeover.last_skipped

    return step


def _logging(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def log(accelerator: Any, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        attached.logged(values)
        original(accelerator, values, *args, **kwargs)

    return log
