"""A drop-in for torch.amp.GradScaler that has a floor, reports skipped steps, and takes closures."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState, _refresh_per_optimizer_state
from torch.optim import Optimizer

from halfstep.passed_on import StateDict
from halfstep.pytorch.grad_scaler.closures import NotFinite, split_closure, step_or_undo
from halfstep.pytorch.grad_scaler.floor import Floor
from halfstep.pytorch.grad_scaler.misuse import (
    ScaleCollapse,
    ScalerMisuse,
    check_factors,
    warn,
    warn_if_inexact,
    where,
)
from halfstep.pytorch.grad_scaler.unscaling import inverse_of, unscale_gradients
from halfstep.pytorch.loss_scaling import clipping
from halfstep.pytorch.loss_scaling.gradients import constant
from halfstep.pytorch.loss_scaling.pending_flag import is_fused
from halfstep.pytorch.loss_scaling.skips import Skips, floored


class GradScaler(torch.amp.GradScaler):
    """Loss scaling for your own training loop: ``torch.amp.GradScaler`` without its ways to fail silently.

    Use it as PyTorch's: ``scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()``.
    Either loads the other's ``state_dict()``. The differences:

    - The scale never falls below ``min_scale``: 1, or the ``init_scale`` where that is lower. After
      ``floor_patience`` updates in a row that skipped at the floor, ``update()`` raises :class:`ScaleCollapse`, which
      names the parameters whose gradients are not finite.
    - What is tested for finiteness is what the optimizer uses: gradient / scale, also where the scale is below 1.
    - A skipped step does not change the state of a fused optimizer, even if there is none yet. (PyTorch's scaler lets a
      fused SGD make momentum in a skipped first step, and use it afterwards although nothing was written into it.)
      Gradients are unscaled after a skipped step, too, and a scheduler after a skipped first step draws no warning.
    - ``last_step_skipped`` and ``skipped_steps`` tell what happened. ``step()`` returns what the optimizer
      returned, or None for a skipped step, as PyTorch's does.
    - ``step(optimizer, closure)`` works, with LBFGS too; the closure scales its own loss, calls ``backward`` and
      returns the loss *unscaled*. Where the optimizer may call it more than once, a copy of the weights and of
      the optimizer's state is kept during the step, so that a skipped step changes nothing.
    - Complex gradients are unscaled on a CPU as well.
    - Scales and factors that are not powers of two draw a warning: with them unscaling rounds, and not always in the
      same way as in PyTorch's fused optimizers, which divide by the scale.

    Args:
        device: as PyTorch's: ``cuda`` or ``cpu``.
        init_scale: the first scale; at least ``min_scale``, if that is given.
        growth_factor: above 1; multiplies the scale after ``growth_interval`` finite updates in a row.
        backoff_factor: below 1; multiplies the scale after an update with a gradient that is not finite.
        growth_interval: in updates.
        enabled: if False, every method does nothing, and ``step`` only calls the optimizer's own.
        min_scale: the floor, a power of two; None for 1, or for the power of two below a lower ``init_scale``
            or a lower scale that ``update`` sets. At 1 or above, no test needs a second pass.
        floor_patience: after this many skipped updates in a row at the floor ``update()`` raises.

    Raises:
        UsageError: an argument out of range.

    Source: Micikevicius et al., Mixed Precision Training, ICLR 2018, section 3.2.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        min_scale: float | None = None,
        floor_patience: int = 50,
    ) -> None:
        self._floor = Floor(min_scale)
        self._floor_patience = floor_patience
        self._skips = Skips()
        self._last_optimizer: weakref.ref[Optimizer] | None = None
        if enabled:
            check_factors(growth_factor, backoff_factor, growth_interval, floor_patience)
            self._floor.admit(init_scale, "init_scale")
            warn_if_inexact(init_scale, "init_scale", least=self._floor.scale)
            warn_if_inexact(growth_factor, "growth_factor", least=2.0)
            warn_if_inexact(backoff_factor, "backoff_factor", most=0.5)
            clipping.watch()
        super().__init__(device, init_scale, growth_factor, backoff_factor, growth_interval, enabled)

    @property
    def last_step_skipped(self) -> bool:
        """Whether the last ``step()`` left the weights alone. Synchronizes with a GPU that runs a fused optimizer."""
        return self._skips.last

    @property
    def skipped_steps(self) -> int:
        """How many calls of ``step()`` were skipped so far. Synchronizes in the same cases."""
        return self._skips.total

    @property
    def min_scale(self) -> float:
        """The floor of the scale."""
        return self._floor.scale

    def scale(self, outputs: Any) -> Any:
        """The outputs, a tensor or an iterable of tensors, multiplied by the scale."""
        clipping.forget()
        return super().scale(outputs)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the scale in place; once between two calls of ``update()``.

        Raises:
            ScalerMisuse: called twice, called after ``step()``, or the parameters are in fp16.
        """
        if not self._enabled:
            return
        stage = self._per_optimizer_states[id(optimizer)]["stage"]
        if stage is OptState.UNSCALED:
            raise ScalerMisuse(
                "unscale_() has already been called on this optimizer since the last update(); "
                "call it once per iteration, after the last backward() and before clipping."
            )
        if stage is OptState.STEPPED:
            raise ScalerMisuse(
                "unscale_() is being called after step(); call it before step(), and update() after both."
            )
        scale, _ = self._check_scale_growth_tracker("unscale_")
        self._warn_if_clipped(optimizer)
        state = self._per_optimizer_states[id(optimizer)]
        state["found_inf_per_device"] = self._unscale_grads_(
            optimizer, inverse_of(scale), constant(0.0, scale.device), False
        )
        state["stage"], state["unscaled"] = OptState.UNSCALED, optimizer

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients unless ``unscale_()`` did, and step the optimizer if they are all finite.

        Args:
            optimizer: its other arguments follow, the closure among them.

        Returns:
            What ``optimizer.step`` returned; None if the step was skipped.

        Raises:
            ScalerMisuse: called twice without ``update()``, nothing was scaled, or there are no gradients.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if self._per_optimizer_states[id(optimizer)]["stage"] is OptState.STEPPED:
            raise ScalerMisuse(
                "step() has already been called since the last update(); "
                "call update() once at the end of every iteration, after all step()s."
            )
        self._last_optimizer = weakref.ref(optimizer)
        closure, args, kwargs = split_closure(args, kwargs)
        if closure is not None:
            result = self._step_with_closure(optimizer, closure, *args, **kwargs)
        elif is_fused(optimizer):
            result = self._step_fused(optimizer, *args, **kwargs)
        else:
            result = self._step_plain(optimizer, *args, **kwargs)
        self._per_optimizer_states[id(optimizer)]["stage"] = OptState.STEPPED
        # A skipped step counts for schedulers, too: one that steps next does not come too early.
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Move the scale according to the steps since the last update, or set it.

        Raises:
            ScalerMisuse: no step was made since the last update.
            UsageError: ``new_scale`` is below the floor.
            ScaleCollapse: too many updates in a row were skipped at the floor. The scaler can still be used.
        """
        if not self._enabled:
            super().update(new_scale)
            return
        scale, tracker = self._check_scale_growth_tracker("update")
        if new_scale is not None:
            self._set_scale(new_scale, scale)
            return
        found = self._found_inf(*self._per_optimizer_states.values())
        at_floor = floored(found, scale, self._floor.scale)
        torch._amp_update_scale_(
            scale, tracker, found, self._growth_factor, self._backoff_factor, self._growth_interval
        )
        scale.clamp_(min=self._floor.scale)
        self._per_optimizer_states = defaultdict(_refresh_per_optimizer_state)
        if self._skips.updated(at_floor, self._floor_patience):
            raise ScaleCollapse(self._diagnosis())

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load the state of this class or of ``torch.amp.GradScaler``; a scale below the floor is raised to it."""
        scale = state_dict.get("scale") if self._enabled else None
        if scale is not None:
            warn_if_inexact(scale, "The loaded scale")
            if not scale >= self._floor.scale:
                warn(f"The loaded scale is {scale:g}, below min_scale; going on from {self._floor.scale:g}.")
                state_dict = {**state_dict, "scale": self._floor.scale}
        super().load_state_dict(state_dict)

    def __getstate__(self) -> StateDict:
        self._skips.flush()
        return {**super().__getstate__(), "_last_optimizer": None}

    # --- how each kind of optimizer is stepped -----------------------------------------------------------------

    def _step_plain(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if self._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
            self.unscale_(optimizer)
        found = self._verdict(optimizer)
        if self._skips.stepped(
            bool(found.item())
        ):  # synchronizes: such an optimizer cannot skip on the device
            return None
        return optimizer.step(*args, **kwargs)

    def _step_fused(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Step an optimizer whose own kernel can unscale and skip.

        A ``grad_scale`` that the script has set on it is used for one step.
        """
        if _wants_scaler(optimizer.__class__):
            return self._step_deprecated(optimizer, *args, **kwargs)
        try:
            if self._known_here(optimizer):
                return self._step_plain(optimizer, *args, **kwargs)
            return self._step_in_kernel(optimizer, *args, **kwargs)
        finally:
            for name in ("grad_scale", "found_inf"):
                vars(optimizer).pop(name, None)

    def _step_in_kernel(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Give the scale and the verdict to the optimizer's kernel."""
        scale, _ = self._check_scale_growth_tracker("step")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is OptState.READY and self._floor.scale < 1:
            self.unscale_(optimizer)  # a division in the kernel might overflow unnoticed
        if state["stage"] is OptState.READY:
            self._warn_if_clipped(optimizer)
            self._check_inf_per_device(optimizer)
            optimizer.grad_scale = scale * getattr(optimizer, "grad_scale", 1)
        else:
            optimizer.grad_scale = getattr(optimizer, "grad_scale", None)
        optimizer.found_inf = found = self._verdict(optimizer)
        if self._skips.stepped(bool(found.item()) if found.is_cpu else found):
            return None
        return optimizer.step(*args, **kwargs)

    def _known_here(self, optimizer: Optimizer) -> bool:
        """Whether the verdict costs no synchronization: then a fused optimizer is stepped like any other.

        On a CPU a test that also unscales costs no more: then the kernel need not write the gradients, nor undo its
        count of a skipped step. Optimizers of other libraries may rely on ``grad_scale``.
        """
        scale = self._scale
        return scale is not None and scale.is_cpu and type(optimizer).__module__.startswith("torch.optim.")

    def _step_deprecated(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """The contract before grad_scale and found_inf: the optimizer asks the scaler for everything."""
        result = super().step(optimizer, *args, **kwargs)
        founds = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
        self._skips.stepped(any(bool(found.item()) for found in founds))
        return result

    def _step_with_closure(
        self, optimizer: Optimizer, closure: Callable[[], Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Step an optimizer that evaluates a closure, possibly several times; it gets true gradients each time."""
        state = self._per_optimizer_states[id(optimizer)]

        def evaluate() -> Any:
            state["stage"] = OptState.READY
            with torch.enable_grad():
                loss = closure()
            if state["stage"] is OptState.READY:
                self.unscale_(optimizer)
            if self._verdict(optimizer).item():
                raise NotFinite
            return loss

        made, result = step_or_undo(optimizer, evaluate, *args, **kwargs)
        self._skips.stepped(not made)
        return result

    # --- what torch.amp.GradScaler calls, and tests of PyTorch reach into ----------------------------------------

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        """Unscale and test; device -> 1 where a gradient there is not finite, else 0."""
        return unscale_gradients(
            optimizer, inv_scale, found_inf, allow_fp16, test_result=self._floor.scale < 1
        )

    def _check_scale_growth_tracker(self, funcname: str) -> tuple[Tensor, Tensor]:
        if self._scale is None or self._growth_tracker is None:
            raise ScalerMisuse(
                f"Attempted {funcname} but _scale is None; call scaler.scale(loss).backward() first."
            )
        return self._scale, self._growth_tracker

    def _verdict(self, optimizer: Optimizer) -> Tensor:
        """1.0 if the optimizer's gradients are not all finite, else 0.0; a fused one may have none, as in PyTorch."""
        state = self._per_optimizer_states[id(optimizer)]
        if not state["found_inf_per_device"] and is_fused(optimizer):
            scale, _ = self._check_scale_growth_tracker("step")
            return constant(0.0, scale.device)
        return self._found_inf(state)

    def _found_inf(self, *states: StateDict) -> Tensor:
        """1.0 if any of the states found a value that is not finite, else 0.0; on the scale's device."""
        scale, _ = self._check_scale_growth_tracker("step")
        founds = [found for state in states for found in state["found_inf_per_device"].values()]
        if not founds:
            raise ScalerMisuse(
                "No inf checks were recorded for this optimizer; "
                "call scaler.scale(loss).backward() before step(optimizer), and step() before update()."
            )
        if len(founds) == 1:
            return founds[0].to(scale.device)  # type: ignore[no-any-return]
        return torch.stack([found.to(scale.device, non_blocking=True) for found in founds]).amax(0)

    def _warn_if_clipped(self, optimizer: Optimizer) -> None:
        clipped = clipping.clipped(optimizer)
        if clipped is None or (scale := self.get_scale()) == 1.0:
            return
        unscaled = [state["unscaled"] for state in self._per_optimizer_states.values() if "unscaled" in state]
        if any(
            map(clipping.clipped, unscaled)
        ):  # another optimizer has the parameter, too, and has unscaled it
            return
        clipping.forget()
        warn(
            f"{clipped.function}() has clipped gradients that were still scaled by {scale:g}; "
            f"call scaler.unscale_(optimizer) before clipping, unless {clipped.limit} was scaled as well."
        )

    def _set_scale(self, new_scale: float | Tensor, scale: Tensor) -> None:
        if (
            not isinstance(new_scale, Tensor) or not self._floor.given
        ):  # a tensor is read: that may synchronize
            new_scale = float(new_scale)
            self._floor.admit(new_scale, "new_scale")
            warn_if_inexact(new_scale, "new_scale")
        super().update(new_scale)
        scale.clamp_(min=self._floor.scale)  # a tensor is not read here: that would synchronize

    def _diagnosis(self) -> str:
        start = (
            f"{self._floor_patience} steps in a row were skipped with the loss scale at its floor of "
            f"{self._floor.scale:g}"
        )
        optimizer = self._last_optimizer() if self._last_optimizer else None
        return f"{start}; {where(optimizer)}; {_CURE}."


_CURE = (
    "look for a loss that is not finite, a learning rate too high, or an operation that needs float32; "
    "gradients that are too large for float16 at this scale need a smaller min_scale"
)


@functools.cache
def _wants_scaler(optimizer: type[Optimizer]) -> bool:
    """Whether ``step`` takes the scaler itself: the contract before grad_scale and found_inf."""
    return "grad_scaler" in inspect.signature(optimizer.step).parameters
