"""How many bytes a training in Keras holds: weights, gradients and optimizer state, as a whole and by format."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from halfstep.keras.dtypes import dtype_name, format_name
from halfstep.record.stored import PARTS, Part

#: the dtype of the state of random numbers, which is no weight
_SEEDS = "uint32"


#: the variables of each part. Weights include frozen ones and running statistics; gradients have their weights' dtypes
Held = Mapping[Part, Sequence[Any]]


def held_by_model(model: Any) -> Held:
    """The variables of a model that Keras's own loop trains."""
    metrics = {id(v) for v in model.metrics_variables}
    weights = [v for v in model.variables if id(v) not in metrics]
    return {"weights": weights, "gradients": model.trainable_variables, "optimizer": _state(model.optimizer)}


def held_by_optimizer(optimizer: Any) -> Held:
    """The variables of a loop of the script's own, of which only the optimizer is known."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    trained = [] if inner is None else list(inner._trainable_variables)
    return {"weights": trained, "gradients": trained, "optimizer": _state(optimizer)}


def memory_and_stored(held: Callable[[], Held]) -> tuple[dict[str, int], dict[str, Mapping[str, int | str]]]:
    """Bytes of each part, and bytes by format: the fields of a record's ``stored`` event.

    It raises nothing: what could not be looked at is absent with the reason.
    """
    try:
        parts = held()
        memory: dict[str, int] = {name: sum(map(_bytes_of, part)) for name, part in parts.items()}
        return memory, {name: bytes_by_format(part) for name, part in parts.items()}
    except Exception as error:
        reason = f"a variable could not be looked at: {str(error).partition(chr(10))[0]}"
        return {}, {"absent": dict.fromkeys(PARTS, reason)}


def bytes_by_format(variables: Iterable[Any]) -> dict[str, int]:
    """Bytes of ``variables`` by the format's name, without the state of random numbers.

    Example: three numbers in float32 and two in float16 are ``{"fp32": 12, "fp16": 4}``.
    """
    found: dict[str, int] = defaultdict(int)
    for variable in variables:
        dtype = dtype_name(variable.dtype)
        if dtype != _SEEDS:
            found[format_name(dtype)] += _bytes_of(variable)
    return {name: size for name, size in found.items() if size}


def _state(optimizer: Any) -> Sequence[Any]:
    return [] if optimizer is None else list(optimizer.variables)


def _bytes_of(variable: Any) -> int:
    return math.prod(int(size) for size in variable.shape) * _itemsize(dtype_name(variable.dtype))


def _itemsize(dtype: str) -> int:
    bits = "".join(c for c in dtype.split("_")[0] if c.isdigit())
    return max(1, int(bits) // 8) if bits else 1
