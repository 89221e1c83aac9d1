"""DeepSpeed's engine: its optimizers step inside themselves, and ZeRO takes gradients while a pass is under way.

ZeRO reduces each gradient in a hook that runs after it has been accumulated, and keeps the part that this rank
updates. Such a hook is handed the true gradient, which is then left to ZeRO. ZeRO tests them on all ranks, and makes
no step where one is not finite: that is the recipe's skipped step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from halfstep.integrations.attached import Attached
from halfstep.passed_on import ParamGroup

_ZERO = ("deepspeed.runtime.zero.stage_1_and_2", "deepspeed.runtime.zero.stage3")

#: where ZeRO keeps the fp32 copies of the weights that this rank updates
_COPIES = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")

_NOT_FINITE = "gradients are not finite"


def follow(attached: Attached) -> None:
    """Follow engines as they are made, and their optimizers."""
    patches = attached.takeover.patches
    engine = import_module("deepspeed.runtime.engine").DeepSpeedEngine
    patches.wrap(engine, "__init__", lambda original: _making(original, attached))
    zero = import_module("deepspeed.runtime.base_optimizer").ZeROOptimizer
    patches.wrap(zero, "scale_if_loss", lambda original: _scaling(original, attached))
    if attached.as_is:
        return
    init = import_module("deepspeed.runtime.zero.partition_parameters").InsertPostInitMethodToModuleSubClasses
    patches.wrap(init, "_set_dtype", _partitioning)
    if attached.takeover.recipe.guards:
        for stage in map(import_module, _ZERO):
            patches.wrap(stage, "register_grad_hook", lambda original: _registering(original, attached))


def refuse(attached: Attached, what: str) -> None:
    """End the program: it asks DeepSpeed for something that a recipe cannot follow.

    Raises:
        Unsupported: or SystemExit, where halfstep runs the program.
    """
    attached.refuse(
        f"DeepSpeed's {what} was asked for under {attached.takeover.recipe}, but halfstep follows its engine through "
        "fp32 weights and plain ZeRO of stages 0 to 3 alone; do without, or run with --precision as-is."
    )


def _making(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(engine: Any, args: Any, model: Any, *rest: Any, **kwargs: Any) -> None:
        takeover = attached.takeover
        if not attached.as_is:
            if takeover.recipe.weights != "fp32":
                refuse(attached, "engine")
            if {cls.__name__ for cls in type(engine).__mro__} & {"PipelineEngine", "DualPipeVEngine"}:
                refuse(attached, "pipeline parallelism")
            takeover.weights.hold(model)
        with takeover.other_steps():  # ZeRO makes the optimizer's state by a step
            original(engine, args, model, *rest, **kwargs)
        if not attached.as_is and (engine.has_moe_layers or engine.mp_world_size > 1):
            refuse(attached, "expert or model parallelism")
        if getattr(engine, "basic_optimizer", None) is not None:
            _follow_steps(engine, attached)
        attached.driven_by("deepspeed")

    return __init__


def _follow_steps(engine: Any, attached: Attached) -> None:
    """Make one step of each step of the engine's optimizer."""
    outer, takeover = engine.optimizer, attached.takeover
    if outer is engine.basic_optimizer:
        outer.step = _telling(outer.step, outer, attached)
        return
    if takeover.recipe.guards:
        if getattr(outer, "_leaf_module_hooks", None):
            refuse(attached, "leaf modules")
        if not getattr(outer, "compute_grad_norm", True):  # a norm would show it
            outer.check_grad_overflow = True
    parts: Any = _Partitioned(engine)  # instead of an optimizer, which holds other tensors than the model
    step = outer.step

    @functools.wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        takeover.before_step(parts)
        if attached.as_is:
            takeover.scaling.scaled_elsewhere(float(getattr(outer, "cur_scale", 1.0)))
        with takeover.other_steps(), takeover.regions.paused():
            result = step(*args, **kwargs)
        if overflow := bool(getattr(outer, "overflow", False)):
            takeover.scaling.finite_cache.trouble = _NOT_FINITE
        takeover.after_step(parts, not overflow)
        return result

    outer.step = stepping


def _telling(step: Callable[..., Any], optimizer: Any, attached: Attached) -> Callable[..., Any]:
    """The engine asks an optimizer for ``overflow``: schedulers and counts leave a skipped step out."""
    if not attached.takeover.recipe.guards:
        return step

    @functools.wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        optimizer.overflow = attached.takeover.last_skipped
        return result

    return stepping


class _Partitioned:
    """An engine's optimizer as the recorder looks at one: what it trains and keeps, on this rank."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @property
    def param_groups(self) -> list[ParamGroup]:
        """The model's trained parameters, and under stage 3 the parts of them that this rank holds."""
        trained = [p for p in self._engine.module.parameters() if p.requires_grad]
        parts = [p.ds_tensor for p in trained if hasattr(p, "ds_tensor") and not p.numel()]
        return [{"params": [*trained, *parts]}]

    @property
    def state(self) -> dict[Any, Any]:
        """The optimizer's state, and the copies of weights that it updates."""
        outer = self._engine.optimizer
        copies = [getattr(outer, name, []) for name in _COPIES]
        return {**self._engine.basic_optimizer.state, "copies": {"weights": copies}}


def _registering(original: Callable[..., Any], attached: Attached) -> Callable[..., Any]:
    def register_grad_hook(parameter: Tensor, hook: Callable[..., None]) -> Any:
        def taking(of: Tensor) -> None:
            attached.takeover.scaling.pass_gradients.leave(of)
            hook(of)

        return original(parameter, taking)

    return register_grad_hook


def _scaling(original: Callable[..., Any], attached: Attached) -> Callable[..., Any]:
    def scale_if_loss(optimizer: Any, value: Any) -> Any:
        scaled = original(optimizer, value)
        if scaled is not value and isinstance(value, Tensor):
            attached.takeover.recorder.scaled([value], [scaled])
        return scaled

    return scale_if_loss


def _partitioning(original: Callable[..., None]) -> Callable[..., None]:
    """``deepspeed.zero.Init`` makes weights in a dtype of its own: they are fp32."""

    def _set_dtype(context: Any, *args: Any, **kwargs: Any) -> None:
        original(context, *args, **kwargs)
        context.dtype = torch.float32

    return _set_dtype
