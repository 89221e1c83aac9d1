"""Launchers run as the program (torchrun, ``accelerate launch``): what they start would be plain Python; refused."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached


def install(launcher: ModuleType, attached: Attached) -> None:
    """Take over ``torch.distributed.launcher.api``, just imported: torchrun's engine, and that of other launchers."""
    if attached.as_is:
        return

    def starting(original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(launch: Any, *args: Any) -> Any:
            # A function, unlike a command, is a fork of this process or is refused where it is spawned.
            if isinstance(launch._entrypoint, str):
                refuse(attached)
            return original(launch, *args)

        return __call__

    attached.takeover.patches.wrap(launcher.elastic_launch, "__call__", starting)


def refuse(attached: Attached) -> None:
    """End the program: it is about to start the training in processes of its own.

    Raises:
        Unsupported: or SystemExit, where halfstep runs the program.
    """
    attached.refuse(
        "The program is a launcher, whose processes halfstep cannot follow from here; put it in front, as in "
        f"`torchrun … -m halfstep run --precision {attached.takeover.recipe} train.py`, or compare with "
        '`--launch "torchrun …"`.'
    )
