"""16-bit tensors that enter a model become float32, in tuples, lists and dicts as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.autocast.results import like


def entering(value: Any, narrow: tuple[torch.dtype, ...]) -> Any:
    """``value`` with its tensors of a ``narrow`` dtype cast to float32; the very same object if there are none.

    A list or dict that the model is to fill stays the caller's own. Objects of other classes are not searched.
    """
    if isinstance(value, Tensor):
        return value.to(torch.float32) if value.dtype in narrow else value
    kind = type(value)
    if kind is dict:
        made = {key: entering(item, narrow) for key, item in value.items()}
        return made if any(made[key] is not item for key, item in value.items()) else value
    if kind is list or isinstance(value, tuple):
        items = [entering(item, narrow) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return like(value, items)
    return value
