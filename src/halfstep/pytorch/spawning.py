"""Training processes that ``torch.multiprocessing`` spawns start afresh, without the recipe: refused, not ignored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch.multiprocessing

from halfstep.errors import Unsupported
from halfstep.pytorch.patches import Patches

_SENTENCE = (
    "The program trains in processes of torch.multiprocessing.spawn, which halfstep cannot follow; start them with "
    "torchrun (Lightning: strategy='ddp', not 'ddp_spawn'), or run with --precision as-is."
)


def refuse(stop: Callable[[Unsupported], NoReturn], patches: Patches) -> None:
    """End the program where it spawns its training processes; data loaders start theirs in another way.

    Args:
        stop: ends the program with a sentence.
        patches: where the replaced functions are remembered.
    """

    def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
        def start_processes(
            fn: Any, args: Any = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
            start_method: str = "spawn",
        ) -> Any:  # fmt: skip
            if start_method != "fork":
                stop(Unsupported(_SENTENCE))
            return original(fn, args, nprocs, join, daemon, start_method)

        return start_processes

    # torch.multiprocessing.spawn is a function and, in sys.modules, the module that has it.
    for home in (torch.multiprocessing, sys.modules["torch.multiprocessing.spawn"]):
        patches.wrap(home, "start_processes", refusing)
