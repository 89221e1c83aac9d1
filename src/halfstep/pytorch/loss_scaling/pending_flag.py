"""Whether a step's gradients are finite, read by the host only when it has to know.

A fused optimizer of PyTorch's skips a bad step on the device, by a flag there (``found_inf``). What the host has to
know of it, the next loss scale above all, it needs at the next backward pass: by then the next forward pass is under
way on the device, which is kept busy while the host waits for a flag of the step before. Nothing else differs from
reading the flag at once: the same steps are skipped, under the same scales.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from halfstep.errors import HalfstepError
from halfstep.precisions.loss_scale import DynamicScale, LossScale
from halfstep.pytorch.loss_scaling.gradients import are_plain, devices_of

#: devices on which reading a flag at once would wait for all that was launched before
DEVICES = {"cuda"}


class Verdict:
    """A flag on its way from the device.

    Args:
        found: a float32 scalar, 1 where a gradient is not finite, else 0.
    """

    def __init__(self, found: Tensor) -> None:
        self.found = found
        self._host = torch.empty((), device="cpu", pin_memory=True)
        self._host.copy_(found, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(
            torch.cuda.current_stream(found.device)
        )  # not the current device's: the copy is in this one

    @property
    def arrived(self) -> bool:
        """Whether asking for it would not wait."""
        return bool(self._event.query())

    @property
    def finite(self) -> bool:
        """Whether all gradients are finite. Waits for the flag, not for what was launched after it."""
        self._event.synchronize()
        return not bool(self._host)


class Captured(HalfstepError, RuntimeError):
    """The step is being captured into a CUDA graph, whose replays the host does not see."""

    exit_code = 1

    def __init__(self, why: str) -> None:
        super().__init__(
            f"A step is being captured into a CUDA graph, {why}; use a fused optimizer under a static scale "
            "(--precision fp16:loss_scale=1024), bf16, which needs none, or halfstep.pytorch.GradScaler in the program."
        )


def refuse_capture(loss_scale: LossScale, optimizer: Optimizer) -> None:
    """Raise Captured where a step with bad gradients would not be skipped, or the scale not move, in a replay."""
    if isinstance(loss_scale, DynamicScale):
        refuse_dynamic()
    if not skips_by_itself(optimizer):
        raise Captured(f"where {type(optimizer).__name__} cannot skip a bad step by itself")


def refuse_dynamic() -> NoReturn:
    """Raise Captured for a loss scale that would stay as it is in every replay."""
    raise Captured("where a dynamic loss scale cannot move")


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer reads ``grad_scale`` and ``found_inf``."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def skips_by_itself(optimizer: Optimizer) -> bool:
    """Whether it is a fused optimizer of PyTorch's own, and its step nothing but its kernel.

    Hooks, and what a subclass does around the step, would run although the step is skipped.
    """
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    own = type(optimizer).__module__.startswith("torch.optim.")
    return own and is_fused(optimizer) and not any(hooks)


class Readiness:
    """Which optimizers have made such a step before: then a skipped one finds all its state made.

    A fused SGD that skips its first step takes its momentum, not yet written, for written.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[Optimizer, tuple[Any, ...]] = weakref.WeakKeyDictionary()

    def made(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> None:
        """A step was made by ``gradients``."""
        if _might_wait(optimizer, gradients) and len(devices_of(gradients)) == 1 and are_plain(gradients):
            self._made[optimizer] = _kind(optimizer, gradients)

    def may_wait(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> bool:
        """Whether the verdict on ``gradients`` may be read after the step."""
        return (
            _might_wait(optimizer, gradients)
            and self._made.get(optimizer) == _kind(optimizer, gradients)
            and skips_by_itself(optimizer)
        )


def _might_wait(optimizer: Optimizer, gradients: Sequence[Tensor]) -> bool:
    return is_fused(optimizer) and bool(gradients) and gradients[0].device.type in DEVICES


def _kind(optimizer: Optimizer, gradients: Sequence[Tensor]) -> tuple[Any, ...]:
    """What the state that a step leaves depends on: which parameters have gradients, where, and how many have state."""
    groups = optimizer.param_groups
    used = [id(p) for group in groups for p in group["params"] if p.grad is not None]
    return used, gradients[0].device, len(optimizer.state), [bool(group.get("momentum")) for group in groups]
