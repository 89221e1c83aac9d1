"""Where a recipe's autocast is in force: the author's boundaries.

A region is the outermost call of a model; what the model returns comes back to the script as fp32. So losses, metrics,
data, work on gradients and building a model are computed as python computes them. Where a framework or the script
itself has regions, it is exactly those.

Programs that call *layers* with no model around them (a forward pass in a plain function, or in a method that is not
``forward``) have a longer region: from the first layer that is called under grad to the backward pass. A region per
layer would turn everything between two layers to fp32. Programs whose optimizer holds parameters that no module's call
has reached have one from each step to the next backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import is_grad_enabled, nn
from torch.optim import Optimizer

from halfstep.pytorch.autocast.program_region import ProgramRegion
from halfstep.pytorch.autocast.results import to_fp32
from halfstep.pytorch.autocast.roles import Role
from halfstep.pytorch.autocast.state import AROUND, INSIDE, OUTSIDE, Region, place, set_place


class Regions(ProgramRegion):
    """Puts autocast to ``dtype`` where the author means it to be, under a recipe whose weights are fp32."""

    def of_framework(self) -> AbstractContextManager[None]:
        """The region that a framework enters where its own would be; from then on model calls open none."""
        self._become("framework")
        self._opened()
        return self.region() if self.wanted else nullcontext()

    def without_modules(self) -> None:
        """An optimizer holds parameters that were 16-bit and are in no module: open a region to the backward pass."""
        if self._kind is None:
            self._without_a_model()

    def after_step_by_hand(self) -> None:
        """A program without optimizers has made a backward pass: its weights are about to change."""
        self._roles.reached_most(())
        if self._kind == "parameters":
            self._open()
        elif self._kind is None:
            self._without_a_model()

    def after_first_step(self, optimizers: Iterable[Optimizer]) -> None:
        """Every model has been called once: decide whether calls of modules reach what is trained."""
        reached = self._roles.reached_most(optimizers)  # this also forgets what calls have reached
        if self._kind in (None, "model") and not reached:
            self._without_a_model()

    def _without_a_model(self) -> None:
        """No call of a module reaches what is trained: the region is the script's own, or lasts to the next pass."""
        self._become("own" if self._entered else "parameters")
        if not self._entered:
            self._open()

    def _outermost(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call that no other module's call encloses."""
        where = place()
        if self._around.gone and not self.promotes:
            return original(module, *args, **kwargs)
        if torch._C._get_tracing_state() is not None:
            # The program keeps the traced graph, which has to have python's dtypes, and then runs in any region.
            with self.aside():
                return original(module, *args, **kwargs)
        if self.promotes and where is OUTSIDE:
            self._around.be_outside()
        role = self._roles.of(module, args)
        if role is Role.NONE and next(iter(module.parameters()), None) is None:
            return original(module, *args, **kwargs)
        args, kwargs = self._entry(module, args, kwargs)
        if role is Role.NONE or self._around.gone:
            return self._promoted(original, module, args, kwargs)
        if where is AROUND:
            return self._inside_another(original, module, args, kwargs, role)
        if not self.wanted or self._kind in ("own", "framework"):
            run = self._promoted if self._promotes_inside else self._as_a_part
            return run(original, module, args, kwargs)
        narrow = self.dtype is not torch.float32
        if role is Role.LAYER and narrow and is_grad_enabled() and self._kind in (None, "layers"):
            self._become("layers")
            self._open()
            return original(module, *args, **kwargs)
        if role is Role.MODEL and is_grad_enabled():
            self._become("model")
        with self._around_call(module):
            result = original(module, *args, **kwargs)
        return to_fp32(result)

    def _promoted(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Make a call outside of the recipe's regions: 16-bit operands that meet fp32 ones are promoted."""
        if not self._promotes_inside or place() is not OUTSIDE:
            return original(module, *args, **kwargs)
        with Region(self.devices, torch.float32, INSIDE):
            return original(module, *args, **kwargs)

    def _inside_another(
        self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any, role: Role
    ) -> Any:
        """Make a call inside a region of the script's own, or inside one that a layer has opened."""
        if role is Role.MODEL and self._kind == "layers":
            # A program of models, from the next pass on: in this one the script may hold 16-bit results of layers.
            self._become("model")
        if is_grad_enabled() and not self._around.is_open:
            self._become("own")
        if role is Role.LAYER:
            return original(module, *args, **kwargs)
        return self._as_a_part(original, module, args, kwargs)

    @staticmethod
    def _as_a_part(original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Make a call that opens no region, and inside which no module call opens one."""
        outer = place()
        set_place(INSIDE)
        try:
            return original(module, *args, **kwargs)
        finally:
            set_place(outer)
