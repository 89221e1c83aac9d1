"""The dtype policy of the recipe: it is in force before the first layer is made, and replaces the script's own.

A script may ask for 16 bits for the whole program (``set_dtype_policy``, ``set_floatx``), for one layer, loss or metric
(``dtype=``, as text or as a policy, also in a file that is loaded), or for a variable (``add_weight(dtype=…)``,
``keras.Variable``). Layers get the recipe's policy, variables its dtype for weights, losses and metrics float32.
``float32`` for one layer is the author's wish and stays, and so do float64 and quantised policies.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import keras
from keras.src import dtype_policies
from keras.src.backend import config
from keras.src.backend.common.variables import Variable
from keras.src.dtype_policies import dtype_policy as policies
from keras.src.dtype_policies.dtype_policy import DTypePolicy, QuantizedDTypePolicy
from keras.src.losses.loss import Loss

from halfstep.errors import UsageError
from halfstep.keras.dtypes import DTYPES, SIXTEEN, dtype_name
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.patches import Method, Patches


def policy_of(recipe: Recipe) -> str:
    """Keras's name for the recipe's dtypes, e.g. ``mixed_float16``; weights in 16 bits are ``float16``.

    A format that PyTorch's takeover emulates below Keras is rounded to inside of float32.
    """
    dtype = DTYPES.get(recipe.compute, "float32")
    return f"mixed_{dtype}" if recipe.mixed else dtype


def in_sixteen_bits(policy: Any) -> bool:
    """Whether ``policy`` computes or stores in 16 bits and is not a quantised one."""
    plain = isinstance(policy, DTypePolicy) and not isinstance(policy, QuantizedDTypePolicy)
    return plain and (policy.compute_dtype in SIXTEEN or policy.variable_dtype in SIXTEEN)


def wrap_everywhere(original: Method, make: Callable[[Method], Method], patches: Patches) -> None:
    """Put ``make(original)`` wherever Keras's modules hold ``original``: it has a name in several of them."""
    new = functools.wraps(original)(make(original))
    for name, module in list(sys.modules.items()):
        if name == "keras" or name.startswith("keras."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patches.set(module, attribute, new)


def wrap_constructor(patches: Patches, cls: type, make: Callable[[Method], Method]) -> None:
    """Replace ``cls.__init__`` by ``make(it)``, with the signature that Keras reads for ``get_config``."""
    signature = inspect.signature(vars(cls)["__init__"])
    patches.wrap(cls, "__init__", make)
    vars(cls)["__init__"].__signature__ = signature


class Policies:
    """Every place where a script names a policy or a dtype.

    Args:
        note: called with each of the script's requests for 16 bits.

    Attributes:
        asked: how often a policy of 16 bits was asked for by name; a model's file does so for each of its layers.
    """

    def __init__(self, recipe: Recipe, note: Callable[[str], None]) -> None:
        self.asked = 0
        self._recipe = recipe
        self._note = note
        self._name = policy_of(recipe)
        self._stored = DTypePolicy(self._name).variable_dtype
        self._set = policies.set_dtype_policy

    def install(self, patches: Patches) -> None:
        """Put the recipe's policy into force, for good."""
        if not self._recipe.as_is and keras.config.floatx() != "float64":
            self._set(self._name)
        wrap_everywhere(policies.set_dtype_policy, self._set_dtype_policy, patches)
        wrap_everywhere(config.set_floatx, self._set_floatx, patches)
        wrap_everywhere(dtype_policies.get, self._get, patches)
        wrap_constructor(patches, keras.layers.InputLayer, self._input)
        patches.wrap(Variable, "__init__", self._variable)
        if not self._recipe.as_is:
            for cls in (Loss, keras.metrics.Metric):
                patches.wrap(cls, "__init__", _in_float32)

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
        """The constructor of a model's input: the script's 16-bit data enter the model as float32."""

        def __init__(
            layer: Any,
            /,
            shape: Any = None,
            batch_size: Any = None,
            dtype: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            asked = _named(dtype)
            if asked in SIXTEEN:
                self._note(f"Input(dtype={asked!r})")
                dtype = dtype if self._recipe.as_is else "float32"
            original(layer, shape, batch_size, dtype, *args, **kwargs)

        return __init__

    def _variable(self, original: Method) -> Method:
        """The constructor of a variable. An initial value in 16 bits, from an array or a file, is exact in float32."""

        def __init__(
            variable: Any,
            /,
            initializer: Any,
            shape: Any = None,
            dtype: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            asked = _named(getattr(initializer, "dtype", None) if dtype is None else dtype)
            if asked in SIXTEEN and asked != self._usual():
                self._note(f"Variable(dtype={asked!r})")
                dtype = dtype if self._recipe.as_is else self._stored
            original(variable, initializer, shape, dtype, *args, **kwargs)

        return __init__

    def _usual(self) -> str:
        """The dtype of weights that are made without a dtype."""
        return str(keras.config.dtype_policy().variable_dtype) if self._recipe.as_is else self._stored


def _named(dtype: Any) -> str | None:
    """The name of a dtype of any framework; None for anything else."""
    try:
        return None if dtype is None else dtype_name(dtype)
    except (TypeError, ValueError):
        return None


def _in_float32(original: Method) -> Method:
    """The constructor of a loss or metric: one that would compute in 16 bits computes in float32."""

    def __init__(computed: Any, /, *args: Any, **kwargs: Any) -> None:
        original(computed, *args, **kwargs)
        if in_sixteen_bits(computed._dtype_policy):
            computed._dtype_policy = DTypePolicy("float32")
            computed._dtype = "float32"

    return __init__


class Keep:
    """``keep=``: layers whose own names match a pattern are made with the policy ``float32``.

    Args:
        patterns: name patterns (``fnmatch``) of layers: ``head``, ``batch_normalization*``.
    """

    def __init__(self, patterns: tuple[str, ...], patches: Patches) -> None:
        self._patterns = patterns
        self._missing = set(patterns)
        self._names: list[str] = []
        if patterns:
            wrap_constructor(patches, keras.Layer, self._init)

    def _init(self, original: Method) -> Method:
        def __init__(layer: Any, /, *args: Any, **kwargs: Any) -> None:
            original(layer, *args, **kwargs)
            self._names.append(layer.name)
            matching = {pattern for pattern in self._patterns if fnmatchcase(layer.name, pattern)}
            self._missing -= matching
            if matching and in_sixteen_bits(layer.dtype_policy):
                layer.dtype_policy = "float32"

        return __init__

    def check(self) -> None:
        """Called after the first step, when every layer has been made: a pattern that matched none is a mistake.

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
