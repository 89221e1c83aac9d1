"""Undoes casts of single weights and buffers that the script itself makes in the middle of a training.

``p.data = p.data.to(torch.bfloat16)``, ``module.weight = nn.Parameter(module.weight.half())``, ``module.mean =
module.mean.half()`` and ``swap_tensors`` put 16-bit numbers in the place of fp32 ones. If these are the weight's own
values, rounded, the values before the cast stay. Other numbers, such as a checkpoint's, are widened when the model is
called next. A checkpoint with the weight's own values, rounded (a constant that was never trained), looks like a cast.
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
from halfstep.pytorch.weights.widening import is_alone, is_narrow

_WIDE = (torch.float32, torch.float64)


class Narrowed:
    """Looks at tensors that take the place of a weight.

    Args:
        found: called with a 16-bit dtype that the script gives a weight.
        changed: called where a weight has 16-bit values of its own.
        is_held: tells whether a tensor that is no parameter is a model's.
        stays: tells whether a buffer of a module, given its name, stays as the program has it.
    """

    def __init__(
        self,
        found: Callable[[torch.dtype], None],
        changed: Callable[[], None],
        is_held: Callable[[Tensor], bool],
        stays: Callable[[nn.Module, str], bool],
    ) -> None:
        self._found = found
        self._changed = changed
        self._is_held = is_held
        self._stays = stays

    def install(self, patches: Patches) -> None:
        """Wrap the ways to replace a weight."""
        # This replaces a slot in C: reading the attribute takes some 0.1 us more.
        patches.set(Tensor, "data", property(raw_data, self._set_data, doc=Tensor.data.__doc__))
        patches.wrap(torch.utils, "swap_tensors", self._swap_tensors)
        patches.wrap(nn.Module, "register_parameter", self._register_parameter)
        patches.wrap(nn.Module, "register_buffer", self._register_buffer)

    def _set_data(self, tensor: Tensor, data: Tensor) -> None:
        if _is_16_bit(data) and self._is_of_a_model(tensor):
            self._found(data.dtype)
            if (kept := _before_cast(tensor, data)) is not None:
                set_raw_data(tensor, kept)
                return
            self._changed()
        set_raw_data(tensor, data)

    def _swap_tensors(self, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def swap_tensors(t1: Tensor, t2: Tensor) -> None:
            of_a_model = self._is_of_a_model(t1)
            original(t1, t2)
            if of_a_model and _is_16_bit(t1):
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
            if not (replaces and put_back(param, before)):
                self._changed()  # a model that was called before may have got a new weight

        return register_parameter

    def _register_buffer(self, original: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``register_buffer``, which an assignment to the attribute calls, too."""

        def register_buffer(
            module: nn.Module, name: str, tensor: Tensor | None, *args: Any, **kwargs: Any
        ) -> None:
            before = module.__dict__.get("_buffers", {}).get(name)
            original(module, name, tensor, *args, **kwargs)
            if tensor is None or torch.compiler.is_compiling() or not is_narrow(tensor):
                return
            if self._stays(module, name):
                return
            if not (is_wide(before) and is_alone(tensor) and put_back(tensor, before, self._found)):
                self._changed()

        return register_buffer

    def _is_of_a_model(self, tensor: Tensor) -> bool:
        return is_wide(tensor) and (_is_weight(tensor) or self._is_held(tensor))


def _is_weight(tensor: Any) -> bool:
    trained = isinstance(tensor, nn.Parameter) or (isinstance(tensor, Tensor) and tensor.requires_grad)
    return trained and is_wide(tensor)


def is_wide(tensor: Any) -> bool:
    """Whether it is a leaf tensor of fp32 or float64."""
    return isinstance(tensor, Tensor) and tensor.dtype in _WIDE and tensor.is_leaf and not is_lazy(tensor)


def _is_16_bit(data: Any) -> bool:
    return isinstance(data, Tensor) and data.dtype in SIXTEEN_BIT and not is_lazy(data)


def put_back(
    tensor: Tensor, before: Tensor, found: Callable[[torch.dtype], None] = lambda dtype: None
) -> bool:
    """Give the 16-bit ``tensor`` the values of ``before``, in float32, if it is ``before`` rounded; else return False.

    Args:
        tensor: has taken the place of ``before``.
        before: a wide tensor; an optimizer may still train it.
        found: called with the dtype of ``tensor`` if it was a cast.
    """
    kept = _before_cast(before, tensor)
    if kept is not None:
        found(tensor.dtype)
        set_raw_data(tensor, kept.clone())
    return kept is not None


def _before_cast(weight: Tensor, narrow: Tensor) -> Tensor | None:
    """The values of ``weight`` in float32 if ``narrow`` is ``weight`` rounded; else None. One pass over both."""
    with torch.no_grad():
        values = weight.detach()
        plain = type(values) in (Tensor, nn.Parameter) and not values.is_meta
        if not plain or values.shape != narrow.shape or values.device != narrow.device:
            return None
        # No dtype is named here: in a model it would be replaced.
        rounded = torch.empty_like(narrow.detach()).copy_(values)
        return values.to(torch.float32) if torch.equal(rounded, narrow.detach()) else None
