"""Whether a step's gradients are finite, read by the host only when it has to know.

A fused optimizer of PyTorch skips a bad step on the device, by a flag there (``found_inf``). The host needs the flag
only at the next backward pass, mainly for the next loss scale. By then the next forward pass keeps the device busy
while the host waits for the flag of the step before. The same steps are skipped, under the same scales, as if the flag
were read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils.weak import WeakIdKeyDictionary

from halfstep.errors import HalfstepError
from halfstep.precisions.loss_scale import DynamicScale, LossScale
from halfstep.pytorch.loss_scaling.gradients import are_plain, devices_of

#: devices on which reading a flag at once would wait for all that was launched before
DEVICES = {"cuda"}


class Verdict:
    """A flag that is being copied from the device.

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
        )  # the stream of the flag's own device, which makes the copy

    @property
    def arrived(self) -> bool:
        """Whether the flag can be read without waiting."""
        return bool(self._event.query())

    @property
    def finite(self) -> bool:
        """Whether all gradients are finite. It waits for the flag, not for work that was launched after it."""
        self._event.synchronize()
        return not bool(self._host)


class Captured(HalfstepError, RuntimeError):
    """The step is being captured into a CUDA graph: the host does not see the replays."""

    exit_code = 1

    def __init__(self, why: str) -> None:
        super().__init__(
            f"A step is being captured into a CUDA graph, {why}; use a fused optimizer under a static scale "
            "(--precision fp16:loss_scale=1024), bf16, which needs none, or halfstep.pytorch.GradScaler in the program."
        )


def refuse_capture(loss_scale: LossScale, optimizer: Optimizer) -> None:
    """Raise Captured if replays would not skip steps with bad gradients, or would not move the scale."""
    if isinstance(loss_scale, DynamicScale):
        refuse_dynamic()
    if not skips_by_itself(optimizer):
        raise Captured(f"where {type(optimizer).__name__} cannot skip a bad step by itself")


def refuse_dynamic() -> NoReturn:
    """Raise Captured for a dynamic loss scale, which no replay would move."""
    raise Captured("where a dynamic loss scale cannot move")


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer reads ``grad_scale`` and ``found_inf``."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def skips_by_itself(optimizer: Optimizer) -> bool:
    """Whether it is one of PyTorch's own fused optimizers, whose step runs only its kernel.

    Hooks, and a subclass's code around the step, would run although the step is skipped.
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
    """Knows which optimizers have made such a step before, so that all their state exists when one is skipped.

    A fused SGD that skips its first step would later use its momentum although nothing was written into it.
    """

    def __init__(self) -> None:
        self._made = WeakIdKeyDictionary()

    def made(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> None:
        """A step with ``gradients`` was made."""
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
    """What the state of a step depends on: which parameters have gradients, where, and how many have state."""
    groups = optimizer.param_groups
    used = [id(p) for group in groups for p in group["params"] if p.grad is not None]
    return used, gradients[0].device, len(optimizer.state), [bool(group.get("momentum")) for group in groups]
