"""Under a recipe that computes in fp32, a 16-bit dtype that the program's code names means float32.

Inside models, ``x.to(torch.bfloat16)``, ``x.half()``, ``x.new_zeros(3, dtype=torch.float16)`` and
``x.sum(dtype=torch.bfloat16)`` are operations on a tensor: kernels at autocast's dispatch keys replace their dtype, in
eager and in compiled code, in regions where autocast computes in float32. An operation that makes a tensor from nothing
(``torch.zeros(3, dtype=torch.bfloat16)``) has no such key: its kernels are at the key that chooses a device.

The same holds in the script's own code outside of models: targets, queues and replay memories are fp32, as in an fp32
program. Only weights are cast there as the script says: it may be about to save them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.passed_on import Keywords
from halfstep.pytorch.autocast.data_loading import prepares_data
from halfstep.pytorch.autocast.mixed_operands import KEYS, of_one_dtype
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.callers import asked_by_script
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.patches import Patches, before_swap
from halfstep.pytorch.products.dispatcher import Overrides, exists, overload, own_kernel
from halfstep.pytorch.weights.named import (
    each,
    is_below_autograd,
    is_in_a_model,
    is_narrow_dtype,
    replaced,
    unnarrowed,
    widened,
)
from halfstep.pytorch.weights.widening import is_alone, is_narrow, widen

#: operations that make a tensor from another, and take a dtype
_MAKING = (
    *("to.dtype", "to.device", "to.dtype_layout", "_to_copy"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
)

#: operations that make a tensor of another one's dtype
_BY_EXAMPLE = ("to.other", "type_as")

#: those of them that cast their first argument
_CASTING = frozenset((*_MAKING[:4], *_BY_EXAMPLE))

_KINDS = ("", ".periodic", ".periodic_alpha", ".periodic_alpha_beta", ".beta")

#: operations that make a tensor from nothing
_FROM_NOTHING = (
    *("zeros", "ones", "full", "eye", "eye.m"),
    *("arange", "arange.start", "arange.start_step", "linspace", "logspace"),
    *("rand", "rand.generator", "randn", "randn.generator", "normal.float_float"),
    *("randint", "randint.generator", "randint.low", "randint.low_generator", "randperm", "scalar_tensor"),
    *(
        f"{shape}_window{kind}"
        for shape in ("hann", "hamming", "blackman", "bartlett", "kaiser")
        for kind in _KINDS
    ),
)

#: operations whose 16-bit operands are widened, too: they raise on mixed operands, or round their sums
_COMPUTING = (
    *("softmax.int", "log_softmax.int", "cumsum", "cumprod", "prod", "prod.dim_int"),
    *("sum", "sum.dim_IntList", "mean", "mean.dim", "linalg_vector_norm"),
    *("layer_norm", "group_norm", "dot"),
)

_to_float32 = overload("to.dtype")


def replace(saves: Callable[[Tensor], bool]) -> Overrides:
    """Let 16-bit dtypes that are named where autocast computes in float32 mean float32, until ``remove()``.

    Args:
        saves: tells whether a tensor that the script casts, outside of models, is a weight.
    """
    overrides = Overrides("fp32 for dtypes named")
    for device in filter(KEYS.get, device_types()):
        key = KEYS[device]
        dispatched = getattr(torch._C.DispatchKey, key)
        for name in filter(exists, (*_MAKING, *_BY_EXAMPLE)):
            overrides.put(name, key, _naming(name, device, dispatched, saves))
        for name in filter(exists, _COMPUTING):
            overrides.put(name, key, _computing(name, device, dispatched))
    return overrides


class FromNothing:
    """Makes tensors in float32 for which the program names 16 bits, until :meth:`remove`.

    A tensor that the script made before, such as a queue between a model and its optimizer, becomes float32 when the
    program is found to hold 16-bit numbers.

    Args:
        found: called with a 16-bit dtype that a model names, until the program is found to hold 16-bit numbers.
    """

    def __init__(self, found: Callable[[torch.dtype], None], patches: Patches) -> None:
        self._found = found
        before_swap(self._let_go, patches)
        self._made: list[weakref.ref[Tensor]] | None = []
        self._overrides = Overrides()
        for name in filter(exists, _FROM_NOTHING):
            self._overrides.put(name, "BackendSelect", self._kernel(own_kernel(name, "BackendSelect")))

    def begin(self) -> None:
        """The program holds 16-bit numbers."""
        made, self._made = self._made or [], None
        tensors = [tensor for tensor in (ref() for ref in made) if tensor is not None]
        widen(tensor for tensor in tensors if is_narrow(tensor) and is_alone(tensor))

    def remove(self) -> None:
        """Take the kernels away."""
        self._overrides.remove()

    def _let_go(self, tensor: Tensor) -> None:
        """Forget ``tensor``, which is swapped with another: a model's tensors are looked at when it is called."""
        self._made = self._made and [made for made in self._made if made() is not tensor]

    def _kernel(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dtype") not in SIXTEEN_BIT:
                return own(keyset, *args, **kwargs)
            if self._made is not None and is_in_a_model():
                self._found(kwargs["dtype"])
                kwargs["dtype"] = torch.float32
            elif self._made is None and replaced():
                kwargs["dtype"] = torch.float32
            made = own(keyset, *args, **kwargs)
            if self._made is not None and asked_by_script() and not prepares_data():
                self._made.append(weakref.ref(made))
            return made

        return kernel


def _computing(name: str, device: str, key: Any) -> Callable[..., Any]:
    """Widen operands inside models, and outside of them only mixed ones: there the script prepares data."""
    operation, autocast = overload(name), torch._C.DispatchKeySet(key)

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if torch.get_autocast_dtype(device) is not torch.float32:
                return operation(*args, **kwargs)
            if place() is OUTSIDE:
                args, kwargs = of_one_dtype(operation, args, kwargs)
                if any(map(is_narrow_dtype, (*args, *kwargs.values()))) and replaced():
                    args, kwargs = each(unnarrowed, args, kwargs)
                return operation(*args, **kwargs)
            args, kwargs = each(widened, args, kwargs)
            return operation(*args, **kwargs)

    return kernel


def _naming(name: str, device: str, key: Any, saves: Callable[[Tensor], bool]) -> Callable[..., Any]:
    operation, autocast = overload(name), torch._C.DispatchKeySet(key)
    casts, by_example = name in _CASTING, name in _BY_EXAMPLE

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if not _names_16_bits(args, kwargs) or torch.get_autocast_dtype(device) is not torch.float32:
                return operation(*args, **kwargs)
            if casts and is_below_autograd(args[0]):
                return operation(*args, **kwargs)
            # A tensor with a gradient is one that a loss is computed from, whoever casts it.
            if not (casts and _has_gradient(args[0])) and (
                not replaced() or (casts and place() is OUTSIDE and saves(args[0]))
            ):
                return operation(*args, **kwargs)
            if by_example:
                return _to_float32(args[0], torch.float32)
            args, kwargs = each(unnarrowed, args, kwargs)
            return operation(*args, **kwargs)

    return kernel


def _names_16_bits(args: tuple[Any, ...], kwargs: Keywords) -> bool:
    """Whether a 16-bit dtype is among the arguments, or a tensor after the first that has one."""
    given = (*args[1:], *kwargs.values())
    return any((x.dtype if isinstance(x, Tensor) else x) in SIXTEEN_BIT for x in given)


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
