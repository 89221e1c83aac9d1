"""What a training of Keras's holds: weights, gradients and optimizer state, in bytes, as a whole and by format."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from halfstep.stored import PARTS

_FORMATS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

#: state of random numbers, which is no weight
_SEEDS = "uint32"


@dataclass(frozen=True)
class Held:
    """Variables of Keras's.

    Attributes:
        weights: those of the model, frozen ones and running statistics included.
        trained: those of them that have gradients, each in its variable's own dtype.
        optimizer: the optimizer's state.
    """

    weights: Sequence[Any]
    trained: Sequence[Any]
    optimizer: Sequence[Any]


def held_by_model(model: Any) -> Held:
    """Of a model that was trained by Keras's own loop."""
    metrics = {id(v) for v in model.metrics_variables}
    weights = [v for v in model.variables if id(v) not in metrics]
    return Held(weights, model.trainable_variables, _state(model.optimizer))


def held_by_optimizer(optimizer: Any) -> Held:
    """Of a loop of the script's own, of which nothing is known but the optimizer."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    trained = [] if inner is None else list(inner._trainable_variables)
    return Held(trained, trained, _state(optimizer))


def memory_and_stored(held: Callable[[], Held]) -> tuple[dict[str, int], dict[str, Any]]:
    """Bytes of each part, and bytes by format: the fields of a record's ``stored`` event.

    This only looks, so it raises nothing: what fails is absent with the reason.
    """
    try:
        found = held()
        parts = {"weights": found.weights, "gradients": found.trained, "optimizer": found.optimizer}
        memory = {name: sum(map(_bytes_of, part)) for name, part in parts.items()}
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
        dtype = _dtype(variable)
        if dtype != _SEEDS:
            found[_FORMATS.get(dtype, dtype)] += _bytes_of(variable)
    return {name: size for name, size in found.items() if size}


def _state(optimizer: Any) -> Sequence[Any]:
    return [] if optimizer is None else list(optimizer.variables)


def _dtype(variable: Any) -> str:
    return str(keras.backend.standardize_dtype(variable.dtype))


def _bytes_of(variable: Any) -> int:
    return math.prod(int(size) for size in variable.shape) * _itemsize(_dtype(variable))


def _itemsize(dtype: str) -> int:
    bits = "".join(c for c in dtype.split("_")[0] if c.isdigit())
    return max(1, int(bits) // 8) if bits else 1
