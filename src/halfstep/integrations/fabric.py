"""Lightning Fabric: ``Fabric(precision=…)`` yields to the recipe, and ``fabric.log`` goes into the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from halfstep.integrations import lightning
from halfstep.integrations.attached import Attached


def install(fabric: ModuleType, attached: Attached) -> None:
    """Take over ``lightning.fabric`` or ``lightning_fabric``, just imported."""
    attached.require("lightning", fabric.__version__)
    patches = attached.takeover.patches
    connector = import_module(f"{fabric.__name__}.connector")._Connector
    flags = ("_precision_input", "_precision_instance")
    patches.wrap(
        connector,
        "_check_and_init_precision",
        lambda original: lightning.choosing(original, attached, "Fabric", *flags),
    )
    patches.wrap(fabric.Fabric, "log_dict", lambda original: _logging(original, attached))
    _relaunch(f"{fabric.__name__}.strategies.launchers.subprocess_script", attached)


def _logging(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def log_dict(fabric: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
        attached.logged(metrics)
        original(fabric, metrics, step)

    return log_dict


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
