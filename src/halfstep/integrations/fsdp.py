"""FSDP: what its mixed precision policies ask for yields to the recipe; weights are fp32 before they are sharded.

``MixedPrecisionPolicy`` (FSDP2) and ``MixedPrecision`` (FSDP1) name dtypes for computing, for communicating gradients,
for buffers and outputs. Under a recipe those of 16 bits are as if they had not been given.

FSDP1 keeps gradients aside where a loss scale and a skipped step cannot follow them: it is refused where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from halfstep.integrations.attached import Attached
from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name


def install(fsdp: Any, attached: Attached) -> None:
    """Take over ``torch.distributed.fsdp``, just imported."""
    patches = attached.takeover.patches
    for policy in (fsdp.MixedPrecisionPolicy, fsdp.MixedPrecision):
        patches.wrap(policy, "__init__", lambda original: _making(original, attached))

    def sharding(original: Callable[..., Any]) -> Callable[..., Any]:
        def fully_shard(module: Any, *args: Any, **kwargs: Any) -> Any:
            for one in module if isinstance(module, list) else [module]:
                attached.takeover.weights.shard(one)
            return original(module, *args, **kwargs)

        return fully_shard

    patches.wrap(fsdp, "fully_shard", sharding)
    patches.wrap(fsdp._fully_shard, "fully_shard", sharding)
    patches.wrap(fsdp.FullyShardedDataParallel, "__init__", lambda original: _wrapping(original, attached))


def _making(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def __init__(policy: Any, *args: Any, **kwargs: Any) -> None:
        original(policy, *args, **kwargs)
        asked = {name: value for name, value in vars(policy).items() if value in SIXTEEN_BIT}
        for name, dtype in asked.items():
            what = f"{type(policy).__name__}({name}={dtype})"
            attached.takeover.own_precision.note(what, format_name(dtype) if name == "param_dtype" else None)
            if not attached.as_is:
                object.__setattr__(policy, name, None)

    return __init__


def _wrapping(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def __init__(sharded: torch.nn.Module, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        attached.takeover.weights.shard(module, flat=True)
        if (recipe := attached.takeover.recipe).guards:
            attached.refuse(
                f"FullyShardedDataParallel (FSDP1) was asked for under {recipe}, but it puts gradients aside where a "
                "loss scale and a skipped step cannot follow; shard by torch.distributed.fsdp.fully_shard (FSDP2), "
                "or use bf16, which needs neither."
            )
        original(sharded, module, *args, **kwargs)

    return __init__
