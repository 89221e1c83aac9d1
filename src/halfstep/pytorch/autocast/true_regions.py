"""Regions of the recipes with 16-bit weights: the author's boundaries, too, and operands of the model's format inside.

What a model returns comes back as fp32, so that losses and whatever else is outside of it meet the script's fp32
tensors as python has them. Inside, a 16-bit tensor may meet an fp32 one: a constant, for one. PyTorch refuses
such products. Autocast casts their operands to the model's format, and it does little else here: every other
operation of its lists that has a 16-bit kernel is left to compute in what it is given, as ``model.to(dtype)`` has it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from halfstep.pytorch.autocast import lists
from halfstep.pytorch.autocast.around import Outer
from halfstep.pytorch.autocast.mixed_operands import KEYS
from halfstep.pytorch.autocast.regions import Kind, Regions
from halfstep.pytorch.autocast.results import to_fp32
from halfstep.pytorch.autocast.roles import Role
from halfstep.pytorch.autocast.state import AROUND, OUTSIDE, place, switch_on
from halfstep.pytorch.devices import in_use
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.dispatcher import Overrides
from halfstep.pytorch.true_16bit import cast, weights_of_transforms

#: in the CPU's autocast list as fp32, and computed in 16 bits where a model is 16-bit: no loss, and it has a kernel
WITH_KERNEL = (
    *("adaptive_avg_pool3d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d"),
    *("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"),
    *("max_pool3d", "max_unpool2d", "max_unpool3d", "prelu", "prod", "prod.dim_int", "trace"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d"),
    "fake_quantize_per_tensor_affine",
)

#: norms refuse weights of another format than what they normalize; below them autocast sees only what they call
NORMS = ("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm")


class TrueRegions(Regions):
    """Around the outermost call of a model, whatever regions the script or a framework has: its weights are 16-bit."""

    def install(self, patches: Patches) -> None:
        """Wrap the call of modules, and norms."""
        super().install(patches)
        patches.wrap_each(functional, NORMS, _of_weights_format)
        for recurrent in (nn.RNN, nn.LSTM, nn.GRU):
            patches.wrap(recurrent, "forward", _of_layers_format)
        patches.on_undo(pass_by(self.devices).remove)
        # TorchScript has lists of its own, by which norms would give fp32; what is below it applies to it, too.
        put_back = functools.partial(torch._C._jit_set_autocast_mode, torch._C._jit_set_autocast_mode(False))
        patches.on_undo(put_back)  # type: ignore[arg-type]  # what it returns is of no use

    def of_framework(self) -> AbstractContextManager[None]:
        """None: the calls of models inside are what has a region."""
        self._opened()
        return nullcontext()

    def without_modules(self) -> None:
        """Parameters that no module's call has reached stay fp32."""

    def after_first_step(self, *_: Any) -> None:
        """Likewise."""

    def after_step_by_hand(self) -> None:
        """Likewise."""
        self._around.close()

    def entered(self, outer: Outer, dtype: torch.dtype | None, where: torch.dtype) -> None:
        """In a model, or a region to the backward pass, a region of the script's own changes nothing."""
        super().entered(outer, dtype, where)
        if dtype is None and outer.place is not OUTSIDE:
            switch_on(in_use(self.devices), self.dtype)

    def _become(self, kind: Kind) -> None:
        """Regions of the script's own are none here."""
        if kind in ("model", "layers"):
            super()._become(kind)

    def _outermost(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._around.gone or next(iter(module.parameters()), None) is None:
            return original(module, *args, **kwargs)
        args, kwargs = self._entry(module, args, kwargs)
        role, grad = self._roles.of(module, args), is_grad_enabled()
        if role is Role.LAYER and grad and self._kind in (None, "layers"):
            self._become("layers")
            self._open()
        elif role is Role.MODEL and grad:
            self._become("model")  # for a program of layers, too, from the next pass on
        around = place() is AROUND
        with self._around_call(module):
            result = self._of_its_format(original, module, args, kwargs)
        return result if around else to_fp32(result)

    def _of_its_format(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What is made without a dtype is 16-bit; the default of a program of float64 stays."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype if default in (torch.float32, *SIXTEEN_BIT) else default)
        try:
            with weights_of_transforms(module, self.dtype):
                return original(module, *args, **kwargs)
        finally:
            torch.set_default_dtype(default)


def pass_by(devices: tuple[str, ...]) -> Overrides:
    """Leave of autocast's lists products, losses, and what has no 16-bit kernel on a CPU.

    Returns:
        What puts them back.
    """
    overrides = Overrides("16-bit weights")
    ours = lists.listed("cpu")
    for device in (device for device in devices if device in ("cpu", "cuda")):
        more = lists.listed(device) - ours - lists.LOWER - lists.WIDEST
        for name in sorted((more | set(WITH_KERNEL)) & lists.listed(device)):
            overrides.pass_by(name, KEYS[device])
    return overrides


def _of_weights_format(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.dtype is torch.float32 and place() is not OUTSIDE:
            for weight in (*args, *kwargs.values()):
                if isinstance(weight, Tensor) and weight.dtype in SIXTEEN_BIT:
                    return original(input.to(weight.dtype), *args, **kwargs)
        return original(input, *args, **kwargs)

    return norm


def _of_layers_format(original: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer chooses its kernel by the format of what it is given."""

    def forward(layer: nn.RNNBase, input: Any, *args: Any, **kwargs: Any) -> Any:
        weight = next(layer.parameters())
        if place() is not OUTSIDE and weight.dtype in SIXTEEN_BIT:
            if isinstance(input, PackedSequence):
                input = input.to(weight.dtype)
            input, args, kwargs = cast((input, args, kwargs), weight.dtype)
        return original(layer, input, *args, **kwargs)

    return forward
