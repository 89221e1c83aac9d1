"""The dtype policy that the recipe means: it is in force before the first layer is made, and the script's own yield.

A script may ask for 16 bits for the whole program (``set_dtype_policy``, ``set_floatx``) or for one layer, loss or
metric (``dtype=``, as text or as a policy; a file that is loaded names them, too). Each of these gets the recipe's
policy; losses and metrics get float32. ``float32`` for one layer is a wish and stays, and so do float64 and quantised
policies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import keras
from keras.src import dtype_policies
from keras.src.backend import config
from keras.src.dtype_policies import dtype_policy as policies
from keras.src.dtype_policies.dtype_policy import DTypePolicy, QuantizedDTypePolicy
from keras.src.losses.loss import Loss

from halfstep.errors import UsageError
from halfstep.keras.policies.constructors import wrap_constructor
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Patches

Note = Callable[[str], None]
Method = Callable[..., Any]

SIXTEEN = ("float16", "bfloat16")

_DTYPES = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def policy_of(recipe: Recipe) -> str:
    """Keras's name for the recipe's dtypes, e.g. ``mixed_float16``; weights in 16 bits are ``float16``.

    What PyTorch emulates beneath Keras it rounds inside float32.
    """
    dtype = _DTYPES.get(recipe.compute, "float32")
    return f"mixed_{dtype}" if recipe.mixed else dtype


def in_sixteen_bits(policy: Any) -> bool:
    """Whether ``policy`` computes or stores in 16 bits and is not a quantised one."""
    plain = isinstance(policy, DTypePolicy) and not isinstance(policy, QuantizedDTypePolicy)
    return plain and (policy.compute_dtype in SIXTEEN or policy.variable_dtype in SIXTEEN)


def replace_everywhere(original: Any, new: Any, patches: Patches) -> None:
    """Put ``new`` where Keras's modules hold ``original``: each spelling is a name of its own."""
    for name, module in list(sys.modules.items()):
        if name == "keras" or name.startswith("keras."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patches.set(module, attribute, new)


class Policies:
    """Every place where a script names a policy.

    Args:
        recipe: the precision.
        note: told of each request of the script's own for 16 bits.

    Attributes:
        asked: how often a policy of 16 bits was asked for by name; a model's file does so for each of its layers.
    """

    def __init__(self, recipe: Recipe, note: Note) -> None:
        self.asked = 0
        self._recipe = recipe
        self._note = note
        self._name = policy_of(recipe)
        self._set = policies.set_dtype_policy

    def install(self, patches: Patches) -> None:
        """Put the recipe's policy into force, for good."""
        if not self._recipe.as_is and keras.config.floatx() != "float64":
            self._set(self._name)
        self._wrap(policies.set_dtype_policy, self._set_dtype_policy, patches)
        self._wrap(config.set_floatx, self._set_floatx, patches)
        self._wrap(dtype_policies.get, self._get, patches)
        wrap_constructor(patches, keras.layers.InputLayer, self._input)
        if not self._recipe.as_is:
            for cls in (Loss, keras.metrics.Metric):
                patches.wrap(cls, "__init__", _in_float32)

    def _wrap(self, original: Method, make: Callable[[Method], Method], patches: Patches) -> None:
        new = make(original)
        new.__doc__, new.__name__ = original.__doc__, original.__name__
        replace_everywhere(original, new, patches)

    def _set_dtype_policy(self, original: Method) -> Method:
        def set_dtype_policy(policy: Any) -> None:
            asked = getattr(policy, "name", policy)
            if isinstance(asked, str) and "16" in asked:
                self._note(f"set_dtype_policy({asked!r})")
            if self._recipe.as_is:
                original(policy)
            else:
                original("float64" if asked == "float64" else self._name)

        return set_dtype_policy

    def _set_floatx(self, original: Method) -> Method:
        def set_floatx(value: Any) -> None:
            yields = value in SIXTEEN
            if yields:
                self._note(f"set_floatx({value!r})")
            if self._recipe.as_is:
                original(value)
                return
            original("float32" if yields else value)
            self._set("float64" if value == "float64" else self._name)

        return set_floatx

    def _get(self, original: Method) -> Method:
        def get(identifier: Any) -> Any:
            policy = original(identifier)
            if identifier is None or not in_sixteen_bits(policy):
                return policy
            self.asked += 1
            if policy.name == policies.dtype_policy().name:
                return policy
            self._note(f"dtype={policy.name!r}")
            return policy if self._recipe.as_is else DTypePolicy(self._name)

        return get

    def _input(self, original: Method) -> Method:
        """The constructor of a model's input: data that the script has in 16 bits enter as float32."""

        def __init__(layer: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
            if _named(dtype) in SIXTEEN:
                self._note(f"Input(dtype={_named(dtype)!r})")
                dtype = dtype if self._recipe.as_is else "float32"
            original(layer, *args, dtype=dtype, **kwargs)

        return __init__


def _named(dtype: Any) -> str | None:
    return None if dtype is None else str(keras.backend.standardize_dtype(dtype))


def _in_float32(original: Method) -> Method:
    """The constructor of a loss or metric: one that would compute in 16 bits computes in float32."""

    def __init__(computed: Any, *args: Any, **kwargs: Any) -> None:
        original(computed, *args, **kwargs)
        if in_sixteen_bits(computed._dtype_policy):
            computed._dtype_policy = DTypePolicy("float32")
            computed._dtype = "float32"

    return __init__


class Keep:
    """``keep=``: layers whose own names match a pattern are made with the policy ``float32``.

    Args:
        patterns: name patterns (``fnmatch``) of layers: ``head``, ``batch_normalization*``.
        patches: where the wrapped constructor is remembered.
    """

    def __init__(self, patterns: tuple[str, ...], patches: Patches) -> None:
        self._patterns = patterns
        self._missing = set(patterns)
        self._names: list[str] = []
        if patterns:
            wrap_constructor(patches, keras.Layer, self._init)

    def _init(self, original: Method) -> Method:
        def __init__(layer: Any, *args: Any, **kwargs: Any) -> None:
            original(layer, *args, **kwargs)
            self._names.append(layer.name)
            matching = {pattern for pattern in self._patterns if fnmatchcase(layer.name, pattern)}
            self._missing -= matching
            if matching and in_sixteen_bits(layer.dtype_policy):
                layer.dtype_policy = "float32"

        return __init__

    def check(self) -> None:
        """After the first step every layer has been made: a pattern that matched nothing is a mistake.

        Raises:
            UsageError: naming the pattern and some of the layers that there are.
        """
        missing, self._missing = self._missing, set()
        if missing:
            names = self._names
            raise UsageError(
                f"keep={','.join(sorted(missing))} matches no layer of this program; "
                f"its layers are {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
            )
