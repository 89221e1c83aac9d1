"""Frameworks on top of PyTorch: what each has of its own beside PyTorch's AMP is taken over when it is imported.

An adapter does five things: the precision that the script gave its framework yields to the recipe; figures that the
framework logs go into the record; a skipped step is told to it; processes that it starts run under halfstep, too;
and the record says which framework drives the training.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType

from halfstep.integrations.attached import Attached
from halfstep.program import on_import
from halfstep.unseen_importlib_bootstrap import through_here

__path__ = through_here(__path__)

#: the module whose import ends the wait -> the adapter, a module of this package with an ``install``
ADAPTERS = {
    "lightning.fabric": "fabric",
    "lightning.pytorch": "lightning",
    "lightning_fabric": "fabric",
    "pytorch_lightning": "lightning",
    "accelerate": "accelerate",
    "deepspeed": "deepspeed",
    "torch.distributed.checkpoint.default_planner": "distributed_checkpoint",
    "torch.distributed.checkpoint.state_dict": "distributed_checkpoint",
    "torch.distributed.fsdp": "fsdp",
    "torch.distributed.launcher.api": "launchers",
    "transformers.training_args": "transformers",
    "transformers.trainer": "transformers",
}

__all__ = ["ADAPTERS", "Attached", "watch"]


def watch(attached: Callable[[], Attached | None]) -> list[Callable[[], None]]:
    """Call each adapter right after the program has imported its framework; nothing is imported before.

    Call it before PyTorch is imported: the frameworks import it in the middle of their own import.

    Args:
        attached: what to add to, asked when a framework has been imported; None if PyTorch was not taken over.

    Returns:
        Functions that end the wait.
    """
    return [on_import(name, partial(_install, adapter, attached)) for name, adapter in ADAPTERS.items()]


def _install(adapter: str, attached: Callable[[], Attached | None], framework: ModuleType) -> None:
    found = attached()
    if found is not None:
        importlib.import_module(f"halfstep.integrations.{adapter}").install(framework, found)
