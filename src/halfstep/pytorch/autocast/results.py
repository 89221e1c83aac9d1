"""What a model returns comes back to the script as fp32.

Accelerate does the same for the models that it prepares (``convert_outputs_to_fp32``).
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

_PLAIN = (str, bytes, int, float, complex, type(None), torch.nn.Module, torch.dtype, torch.device, torch.Size)


def to_fp32(value: Any) -> Any:
    """``value`` with its bf16 and fp16 tensors widened to fp32; the very same object where it holds none.

    Tuples, named tuples, lists, deques, dicts and other mappings (ModelOutput of Transformers), dataclasses, namespaces
    and distributions are searched; objects of other classes, which may be caches, are not. A container that has to
    change is copied first: a model may go on using what it returned.
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype is torch.bfloat16 or value.dtype is torch.float16 else value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list | deque):
        return _sequence(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, Distribution | SimpleNamespace) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    ):
        return _with_attributes(value)
    return value


def _sequence(value: Any) -> Any:
    items = [to_fp32(item) for item in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return like(value, items)


def like(value: Any, items: list[Any]) -> Any:
    """``items`` in the class of ``value``, with its attributes; its own constructor may take other arguments."""
    if type(value) in (list, tuple) or hasattr(value, "n_sequence_fields"):  # torch.return_types has these
        return type(value)(items)
    made: Any
    if isinstance(value, list | deque):
        made = copy.copy(value)
        for index, item in enumerate(items):
            made[index] = item
        return made
    made = tuple.__new__(type(value), items)
    if hasattr(value, "__dict__"):
        vars(made).update(vars(value))
    return made


def _mapping(value: Any) -> Any:
    changed = {key: new for key, old in value.items() if (new := to_fp32(old)) is not old}
    if not changed:
        return value
    if type(value) is dict:
        return value | changed
    if not isinstance(value, MutableMapping):
        return value
    made = copy.copy(value)
    for key, new in changed.items():
        made[key] = new
    return made


def _with_attributes(value: Any) -> Any:
    """A shallow copy with changed attributes; a constructor could compute something else, or refuse them."""
    changed = {name: new for name, old in _attributes(value) if (new := to_fp32(old)) is not old}
    if not changed:
        return value
    made = copy.copy(value)
    for name, new in changed.items():
        object.__setattr__(made, name, new)  # a frozen dataclass has a __setattr__ that refuses
    return made


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Those in its dictionary, and those in slots (``dataclass(slots=True)``)."""
    yield from getattr(value, "__dict__", {}).items()
    for name in (name for cls in type(value).__mro__ for name in _slots(cls)):
        if name not in ("__dict__", "__weakref__") and hasattr(value, name):
            yield name, getattr(value, name)


def _slots(cls: type) -> Iterable[str]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots
