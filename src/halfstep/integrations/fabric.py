"""Lightning Fabric: ``Fabric(precision=…)`` yields to the recipe, and ``fabric.log`` goes into the record.

Under a 16-bit recipe modules that Fabric has set up still return float32, as its own mixed precision has them do, so
that a script may hand their outputs to NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from halfstep.integrations import lightning
from halfstep.integrations.attached import Attached
from halfstep.pytorch.dtypes import SIXTEEN_BIT


def install(fabric: ModuleType, attached: Attached) -> None:
    """Take over ``lightning.fabric`` or ``lightning_fabric``, just imported."""
    name = fabric.__name__
    attached.require(name, fabric.__version__)
    patches = attached.takeover.patches
    connector = import_module(f"{name}.connector")._Connector
    flags = ("_precision_input", "_precision_instance")
    patches.wrap(
        connector,
        "_check_and_init_precision",
        lambda original: _choosing(
            lightning.choosing(original, attached, "Fabric", name, *flags), name, attached
        ),
    )
    patches.wrap(fabric.Fabric, "log_dict", lambda original: lightning.logging(original, attached))
    _relaunch(f"{name}.strategies.launchers.subprocess_script", attached)
    if not attached.as_is:
        mixin = import_module(f"{name}.utilities.device_dtype_mixin")._DeviceDtypeModuleMixin
        patches.set(mixin, "dtype", _dtype_of_weights(mixin.dtype))


def _dtype_of_weights(told: Any) -> property:
    """``module.dtype`` is what the last cast asked for; where that or the weights have 16 bits, it is the weights'."""

    def dtype(module: nn.Module) -> Any:
        asked = told.fget(module)
        stored = next((p.dtype for p in module.parameters() if p.is_floating_point()), asked)
        return stored if asked in SIXTEEN_BIT or stored in SIXTEEN_BIT else asked

    return property(dtype, told.fset, doc=told.__doc__)


def _choosing(original: Callable[..., Any], name: str, attached: Attached) -> Callable[..., Any]:
    """A plugin that leaves what modules return as it is converts it where the recipe mixes formats."""
    plugins = import_module(f"{name}.plugins.precision")

    def _check_and_init_precision(connector: Any) -> Any:
        plugin = original(connector)
        if attached.takeover.recipe.mixed and type(plugin).convert_output is plugins.Precision.convert_output:
            plugin.convert_output = functools.partial(plugins.MixedPrecision.convert_output, plugin)
        return plugin

    return _check_and_init_precision


def _relaunch(module: str, attached: Attached) -> None:
    """The processes that ``strategy="ddp"`` starts are copies of the program: run them under halfstep as well.

    Lightning's Trainer takes these functions from Fabric.
    """
    launcher, patches = import_module(module), attached.takeover.patches
    patches.wrap(
        launcher, "_basic_subprocess_cmd", lambda original: lambda: attached.under_halfstep(original())
    )

    def hydra(original: Callable[[int], tuple[list[str], str]]) -> Callable[[int], tuple[list[str], str]]:
        def _hydra_subprocess_cmd(local_rank: int) -> tuple[list[str], str]:
            command, directory = original(local_rank)
            return attached.under_halfstep(command), directory

        return _hydra_subprocess_cmd

    patches.wrap(launcher, "_hydra_subprocess_cmd", hydra)
