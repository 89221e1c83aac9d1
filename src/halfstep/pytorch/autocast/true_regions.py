"""Regions of the recipes with 16-bit weights: the outermost calls of models; operands get the model's format there.

What a model returns comes back as fp32, so that losses and other code outside of it compute with fp32 tensors as in
plain python. Inside, a 16-bit tensor may meet an fp32 one, such as a constant. PyTorch refuses such products. Autocast
casts their operands to the model's format, and does little else here: every other listed operation that has a 16-bit
kernel computes in the dtype that it is given, as after ``model.to(dtype)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.rnn import PackedSequence

from halfstep.pytorch.autocast import lists
from halfstep.pytorch.autocast.around import Outer
from halfstep.pytorch.autocast.mixed_operands import KEYS
from halfstep.pytorch.autocast.program_region import Kind, ProgramRegion
from halfstep.pytorch.autocast.results import to_fp32
from halfstep.pytorch.autocast.roles import Role
from halfstep.pytorch.autocast.state import AROUND, OUTSIDE, place, switch_on
from halfstep.pytorch.devices import in_use
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.dispatcher import Overrides
from halfstep.pytorch.true_16bit import cast, weights_of_transforms

#: operations that the CPU's autocast list computes in fp32, and that a 16-bit model computes in 16 bits: they are no
#: losses and have a 16-bit kernel
WITH_KERNEL = (
    *("adaptive_avg_pool3d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d"),
    *("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"),
    *("max_pool3d", "max_unpool2d", "max_unpool3d", "prelu", "prod", "prod.dim_int", "trace"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d"),
    "fake_quantize_per_tensor_affine",
)

#: norms, which refuse weights in another format than their input; autocast sees only the operations that they call
NORMS = ("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm")


class TrueRegions(ProgramRegion):
    """Opens a region around each outermost call of a model, whatever regions the script or a framework has."""

    def install(self, patches: Patches) -> None:
        """Wrap the call of modules, and norms."""
        super().install(patches)
        patches.wrap_each(functional, NORMS, _of_weights_format)
        for recurrent in (nn.RNN, nn.LSTM, nn.GRU):
            patches.wrap(recurrent, "forward", _of_layers_format)
        patches.on_undo(pass_by(self.devices).remove)
        # TorchScript has autocast lists of its own, by which norms would give fp32; the dispatcher's apply to it, too.
        put_back = functools.partial(torch._C._jit_set_autocast_mode, torch._C._jit_set_autocast_mode(False))
        patches.on_undo(put_back)  # type: ignore[arg-type]  # what it returns is of no use

    def of_framework(self) -> AbstractContextManager[None]:
        """No region: the calls of models inside have one each."""
        self._opened()
        return nullcontext()

    def after_step_by_hand(self) -> None:
        """A region to the backward pass ends; parameters that no module's call has reached stay fp32."""
        self._around.close()

    def entered(self, outer: Outer, dtype: torch.dtype | None, where: torch.dtype) -> None:
        """The script has entered a ``torch.autocast``: inside a region it changes nothing."""
        super().entered(outer, dtype, where)
        if dtype is None and outer.place is not OUTSIDE:
            switch_on(in_use(self.devices), self.dtype)

    def _become(self, kind: Kind) -> None:
        """A program with 16-bit weights is one of models or of layers; regions of the script's own do not count."""
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
            self._become("model")  # a program of layers becomes one of models, from the next pass on
        # The weight that a parametrization computes is 16-bit, as the parameters beside it are.
        stays = place() is AROUND or isinstance(module, ParametrizationList)
        with self._around_call(module):
            result = self._of_its_format(original, module, args, kwargs)
        return result if stays else to_fp32(result)

    def _of_its_format(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Make a call in which a tensor made without a dtype is 16-bit, unless the program's default is float64."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype if default in (torch.float32, *SIXTEEN_BIT) else default)
        try:
            with weights_of_transforms(module, self.dtype):
                return original(module, *args, **kwargs)
        finally:
            torch.set_default_dtype(default)


def pass_by(devices: tuple[str, ...]) -> Overrides:
    """Reduce autocast's lists to products, losses and what has no 16-bit kernel on a CPU; returns what undoes that."""
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
    """Cast the input of a recurrent layer, which chooses its kernel by the format of its input."""

    def forward(layer: nn.RNNBase, input: Any, *args: Any, **kwargs: Any) -> Any:
        weight = next(layer.parameters())
        if place() is not OUTSIDE and weight.dtype in SIXTEEN_BIT:
            if isinstance(input, PackedSequence):
                input = input.to(weight.dtype)
            input, args, kwargs = cast((input, args, kwargs), weight.dtype)
        return original(layer, input, *args, **kwargs)

    return forward
