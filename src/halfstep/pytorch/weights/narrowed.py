"""A cast of a weight that the script writes itself, in the middle of a training, yields to the recipe.

``p.data = p.data.to(torch.bfloat16)``, ``module.weight = nn.Parameter(module.weight.half())`` and ``swap_tensors`` put
16-bit numbers in the place of a weight's fp32 ones. Where they are the weight's own values, rounded, the values before
the cast stay. Others, such as a checkpoint's, are widened when the model is called next. A checkpoint's that are the
weight's own, rounded (a constant that was never trained), cannot be told from a cast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.raw_data import raw_data, set_raw_data
from halfstep.pytorch.weights.widening import is_narrow

_WIDE = (torch.float32, torch.float64)


class Narrowed:
    """Looks at what takes the place of a weight.

    Args:
        found: called with a 16-bit dtype that the script gives a weight.
        changed: called where a weight has 16-bit values of its own.
    """

    def __init__(self, found: Callable[[torch.dtype], None], changed: Callable[[], None]) -> None:
        self._found = found
        self._changed = changed

    def install(self, patches: Patches) -> None:
        """Look at them from now on."""
        # In the place of a slot in C: reading it costs some 0.1 us more.
        patches.set(Tensor, "data", property(raw_data, self._set_data, doc=Tensor.data.__doc__))
        patches.wrap(torch.utils, "swap_tensors", self._swap_tensors)
        patches.wrap(nn.Module, "register_parameter", self._register_parameter)

    def _set_data(self, tensor: Tensor, data: Tensor) -> None:
        if _is_16_bit(data) and _is_weight(tensor):
            self._found(data.dtype)
            if (kept := _before_cast(tensor, data)) is not None:
                set_raw_data(tensor, kept)
                return
            self._changed()
        set_raw_data(tensor, data)

    def _swap_tensors(self, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def swap_tensors(t1: Tensor, t2: Tensor) -> None:
            was_weight = _is_weight(t1)
            original(t1, t2)
            if was_weight and _is_16_bit(t1):
                self._found(t1.dtype)
                narrow = t1.detach()
                if (kept := _before_cast(t2, narrow)) is not None:
                    set_raw_data(t1, kept)
                    set_raw_data(t2, narrow)
                else:
                    self._changed()

        return swap_tensors

    def _register_parameter(self, original: Callable[..., None]) -> Callable[..., None]:
        def register_parameter(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
            before = module.__dict__.get("_parameters", {}).get(name)
            original(module, name, param)
            if param is None or not is_narrow(param):
                return
            self._found(param.dtype)
            replaces = before is not param and _is_weight(before) and not is_lazy(param)
            if replaces and (kept := _before_cast(before, param)) is not None:
                set_raw_data(param, kept.clone())  # an optimizer may still train the one before
            else:
                self._changed()  # a model that was called before may have a new weight

        return register_parameter


def _is_weight(tensor: Any) -> bool:
    trained = isinstance(tensor, nn.Parameter) or (isinstance(tensor, Tensor) and tensor.requires_grad)
    return trained and tensor.dtype in _WIDE and tensor.is_leaf and not is_lazy(tensor)


def _is_16_bit(data: Any) -> bool:
    return isinstance(data, Tensor) and data.dtype in SIXTEEN_BIT and not is_lazy(data)


def _before_cast(weight: Tensor, narrow: Tensor) -> Tensor | None:
    """What ``weight`` holds, in float32, if ``narrow`` is that rounded; else None. A pass over both."""
    with torch.no_grad():
        values = weight.detach()
        plain = type(values) in (Tensor, nn.Parameter) and not values.is_meta
        if not plain or values.shape != narrow.shape or values.device != narrow.device:
            return None
        # No dtype is named here, which in a model would be replaced.
        rounded = torch.empty_like(narrow.detach()).copy_(values)
        return values.to(torch.float32) if torch.equal(rounded, narrow.detach()) else None
