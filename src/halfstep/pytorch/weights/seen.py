"""Under ``as-is``, notes that a program trains 16-bit weights, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights.widening import is_narrow


def look_for_16_bit_weights(note: Callable[[str, str], None], patches: Patches) -> None:
    """Call ``note`` with, for example, ``bf16 weights`` and ``bf16`` when an optimizer is given such weights."""

    def wrap(original: Callable[..., None]) -> Callable[..., None]:
        def add_param_group(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            for name in {format_name(p.dtype) for p in optimizer.param_groups[-1]["params"] if is_narrow(p)}:
                note(f"{name} weights", name)

        return add_param_group

    patches.wrap(Optimizer, "add_param_group", wrap)
