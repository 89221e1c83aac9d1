"""Precision plugins of Lightning and Fabric yield to the recipe, and stay: programs read their ``scaler``.

What Lightning's classes do with formats and scaled losses is the recipe's work. What a class of the script's own does
beside that goes on.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch

from halfstep.integrations.attached import Attached, resting_scaler

#: a plugin's ``precision`` under each recipe; 32-true under all others
_NAMES = {"bf16": "bf16-mixed", "fp16": "16-mixed", "bf16-true": "bf16-true", "fp16-true": "16-true"}

#: methods that refuse optimizers which unscale gradients themselves
_PARTICULAR = ("clip_gradients", "unscale_gradients")


def plugin_for_flag(asked: str, precision: ModuleType, device: str) -> Any:
    """The plugin that Lightning makes where it is asked for ``asked``, with the scaler that it has on a GPU.

    Args:
        asked: as in ``Trainer(precision=…)``.

    Returns:
        None where it is the plain one, or one that the recipe does not rule.
    """
    if asked in ("16-true", "bf16-true"):
        return precision.HalfPrecision(asked)
    if asked in ("16-mixed", "bf16-mixed"):
        return precision.MixedPrecision(asked, device, scaler_for_flag(asked, device))
    return None


def scaler_for_flag(asked: str, device: str) -> torch.amp.GradScaler | None:
    """The scaler of that plugin."""
    return resting_scaler(device) if asked == "16-mixed" else None


def let_yield(plugin: Any, precision: ModuleType, attached: Attached) -> None:
    """Leave what Lightning's own methods of ``plugin`` do with formats to the recipe."""
    if isinstance(plugin, (precision.MixedPrecision, precision.HalfPrecision, precision.FSDPPrecision)):
        sharded = isinstance(plugin, precision.FSDPPrecision)
        recipe = attached.takeover.recipe
        plugin.precision = "32-true" if sharded else _NAMES.get(recipe.name, "32-true")
        if hasattr(plugin, "_desired_input_dtype"):
            plugin._desired_input_dtype = torch.float32
        for name in _PARTICULAR:
            if hasattr(precision.Precision, name) and _is_lightnings(plugin, name):
                setattr(plugin, name, partial(getattr(precision.Precision, name), plugin))
        if _is_lightnings(plugin, "optimizer_step"):
            plugin.optimizer_step = partial(_step, plugin, precision.Precision)
    if _is_lightnings(plugin, "forward_context"):
        # Lightning's own region: a whole training step of a Trainer, a forward pass of what Fabric has set up.
        plugin.forward_context = attached.region


def _step(plugin: Any, plain: type, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    """Lightning's step calls its scaler for steps and updates, and refuses LBFGS because of it."""
    owner: Any = plain if isinstance(optimizer, torch.optim.LBFGS) else type(plugin)
    return owner.optimizer_step(plugin, optimizer, *args, **kwargs)


def _is_lightnings(plugin: Any, method: str) -> bool:
    """Whether the method is not one that the script, or halfstep, has written."""
    module = str(getattr(type(plugin), method).__module__)
    return module.partition(".")[0] in ("lightning", "lightning_fabric", "pytorch_lightning")
