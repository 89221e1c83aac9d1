"""Where 16 bits begin and end: data enter a model as they are, and what a model returns to the script is float32.

Keras casts the inputs of every layer to the layer's own dtype. So a model rounds its data before its first layer sees
them: the integer 301 in a float input becomes 300 in bfloat16. Here only layers that compute round their inputs.
Layers that prepare data (``keras.layers.Normalization``, ``Rescaling``, …) compute in float32.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src import backend as internals
from keras.src.backend.common import global_state
from keras.src.dtype_policies.dtype_policy import DTypePolicy

from halfstep.keras.dtypes import SIXTEEN, dtype_name
from halfstep.keras.policies.policy import in_sixteen_bits, wrap_constructor
from halfstep.keras.policies.results import Results
from halfstep.takeover.patches import Method, Patches

_LAYERS = "keras.src.layers."
_PREPARING = (f"{_LAYERS}preprocessing.",)

#: Keras's layers that pass their inputs on, or that always compute in float32 and cast the result
_PASSING = tuple(
    f"{_LAYERS}{name}"
    for name in (
        "core.identity",
        "core.lambda_layer",
        "core.masking",
        "merging.add",
        "merging.average",
        "merging.concatenate",
        "merging.maximum",
        "merging.minimum",
        "merging.multiply",
        "merging.subtract",
        "normalization.batch_normalization",
        "normalization.group_normalization",
        "normalization.layer_normalization",
        "regularization.",
        "reshaping.",
    )
)


class _AsGiven(str):
    """The ``input_dtype`` of a layer that takes 16-bit and 32-bit inputs as they are; otherwise it means float32."""


class Region:
    """The inputs and the results of every call of a layer."""

    def __init__(self) -> None:
        self._inside = False
        self._results = Results()

    def install(self, patches: Patches) -> None:
        """Replace Keras's cast of a layer's inputs, and cast the results of the outermost layer."""
        patches.set(keras.Layer, "input_dtype", property(_input_dtype))
        patches.wrap(DTypePolicy, "convert_input", _convert_input)
        wrap_constructor(patches, keras.Layer, _init)
        self._results.install(patches)
        patches.wrap(keras.Layer, "__call__", self._call)
        patches.wrap(keras.Layer, "stateless_call", self._stateless_call)

    def _outermost(self) -> bool:
        return not self._inside and global_state.get_global_attribute("current_call_ctx") is None

    def _call(self, original: Method) -> Method:
        def __call__(layer: Any, /, *args: Any, **kwargs: Any) -> Any:
            outermost = self._outermost()
            result = original(layer, *args, **kwargs)
            return self._results.in_float32(result) if outermost else result

        return __call__

    def _stateless_call(self, original: Method) -> Method:
        """``stateless_call`` does not call ``__call__``, so Keras would take each layer inside for an outermost one."""

        def stateless_call(layer: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not self._outermost():
                return original(layer, *args, **kwargs)
            self._inside = True
            try:
                result, *state = original(layer, *args, **kwargs)
            finally:
                self._inside = False
            return (self._results.in_float32(result), *state)

        return stateless_call


def _init(original: Method) -> Method:
    """Wrap the constructor of every layer: a layer that prepares data computes in float32."""

    def __init__(layer: Any, /, *args: Any, **kwargs: Any) -> None:
        original(layer, *args, **kwargs)
        if _from(layer, _PREPARING) and in_sixteen_bits(layer.dtype_policy):
            layer.dtype_policy = "float32"

    return __init__


def _input_dtype(layer: Any) -> str:
    """What a layer's float inputs are cast to."""
    computed = str(layer.compute_dtype)
    return _AsGiven("float32") if computed in SIXTEEN and takes_as_given(layer) else computed


def takes_as_given(layer: Any) -> bool:
    """Whether ``layer`` leaves its inputs as they are, because other layers compute with them."""
    own = _own_weights(layer)
    if isinstance(layer, keras.Model):
        return not own or bool(layer._layers)
    if _from(layer, _PASSING) or _holds_ids(layer):
        return True
    if own or _from(layer, (_LAYERS,)):
        return False
    # A layer of the script's own without weights. Before it is built, it is unknown whether it will have some.
    return bool(layer._layers) or layer.built or _is_default(layer.build)


def _own_weights(layer: Any) -> bool:
    own = (*layer._trainable_variables, *layer._non_trainable_variables)
    return any(internals.is_float_dtype(v.dtype) for v in own)


def _holds_ids(layer: Any) -> bool:
    """Whether a layer inside of ``layer`` takes integers, which a float input may hold."""
    inside = layer._flatten_layers(include_self=False)
    return any(isinstance(x, keras.layers.Embedding) or _from(x, _PREPARING) for x in inside)


def _from(layer: Any, prefixes: tuple[str, ...]) -> bool:
    """Whether the nearest of Keras's own layer classes that ``layer`` is, or is derived from, is in these modules."""
    for cls in type(layer).__mro__:
        if cls.__module__.startswith(_LAYERS) and cls is not keras.Layer:
            return cls.__module__.startswith(prefixes)
    return False


def _is_default(build: Method) -> bool:
    return bool(getattr(getattr(build, "__wrapped__", build), "_is_default", False))


def _convert_input(original: Method) -> Method:
    def convert_input(policy: Any, x: Any, autocast: bool, dtype: Any) -> Any:
        tensor = internals.is_tensor(x) or internals.is_keras_tensor(x)
        if type(dtype) is _AsGiven and tensor and dtype_name(x.dtype) in SIXTEEN:
            return x
        return original(policy, x, autocast, dtype)

    return convert_input
