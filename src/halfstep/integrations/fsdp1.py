"""FSDP1 (``FullyShardedDataParallel``) keeps gradients aside where a loss scale cannot follow them: refused."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached


def install(module: ModuleType, attached: Attached) -> None:
    """Take over ``torch.distributed.fsdp.fully_sharded_data_parallel``, just imported."""
    recipe = attached.takeover.recipe
    if not recipe.guards:
        return

    def wrapping(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(*args: Any, **kwargs: Any) -> None:
            attached.refuse(
                f"FullyShardedDataParallel (FSDP1) was asked for under {recipe}, but it puts gradients aside where a "
                "loss scale and a skipped step cannot follow; shard by torch.distributed.fsdp.fully_shard (FSDP2), "
                "or use bf16, which needs neither."
            )

        return __init__

    attached.takeover.patches.wrap(module.FullyShardedDataParallel, "__init__", wrapping)
