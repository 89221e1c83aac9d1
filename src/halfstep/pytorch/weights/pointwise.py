"""Under a recipe that computes in fp32, operations by elements on 16-bit operands compute in float32.

A model may meet 16-bit tensors in an attribute that is no parameter, in a table that the script keeps, in an object of
its own class, or in a hook's result; ``a / 3`` of one would be rounded to 16 bits. Autocast takes care of products and
some sums; this file of operations that work by elements and round, and of the other sums.

Kernels in Python take time in every call. So they are taken away if the first step has met no such operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.autocast.mixed_operands import KEYS, of_one_dtype
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, exists, overload

#: the beginnings of the names of operations by elements that round nothing
_EXACT = (
    *("abs", "bitwise", "ceil", "clamp", "clip", "clone", "copysign", "eq", "fill", "floor", "fmax", "fmin"),
    *("frexp", "ge.", "gt.", "hardtanh", "heaviside", "is", "le.", "logical", "lt.", "masked_fill", "max"),
    *("min", "nan_to_num", "ne.", "neg", "nextafter", "relu", "round", "sgn", "sign", "threshold", "trunc"),
    "where",
)

#: other operations that round
_OTHERS = (
    *("var", "var.dim", "var.correction", "std", "std.dim", "std.correction"),
    *("var_mean.correction", "nansum"),
    *("batch_norm", "instance_norm", "rms_norm", "dropout", "native_dropout", "logcumsumexp", "diff"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "upsample_linear1d.vec", "upsample_bilinear2d.vec"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_bicubic2d.vec"),
    *("upsample_trilinear3d.vec", "index_add", "scatter_add", "scatter_reduce.two", "index_put"),
)


class Pointwise:
    """The kernels, until :meth:`remove`.

    Attributes:
        met: whether one of them has met a 16-bit operand inside a region.
    """

    def __init__(self) -> None:
        self.met = False
        self._overrides = Overrides("fp32 for operations by elements")
        for device, key in ((device, KEYS[device]) for device in device_types() if device in KEYS):
            for name in _rounding(key):
                self._overrides.put(name, key, self._kernel(name, key, device))

    def remove(self) -> None:
        """Take the kernels away."""
        self._overrides.remove()

    def _kernel(self, name: str, key: str, device: str) -> Callable[..., Any]:
        operation, meets = overload(name), name in _OTHERS
        excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

        def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(excluded):
                if place() is not OUTSIDE and torch.get_autocast_dtype(device) is torch.float32:
                    args, kwargs = tuple(map(self._wide, args)), {n: self._wide(v) for n, v in kwargs.items()}
                elif meets:
                    args, kwargs = of_one_dtype(operation, args, kwargs)
                return operation(*args, **kwargs)

        return kernel

    def _wide(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in SIXTEEN_BIT:
            self.met = True
            return value.to(torch.float32)
        return value


def _rounding(key: str) -> Iterator[str]:
    """The operations by elements that round and have no kernel at ``key`` that casts."""
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, name = full.partition("::")
        if (
            namespace != "aten"
            or name.startswith(("_", *_EXACT))
            or name.endswith(("out", "backward", "grad_input"))
        ):
            continue
        operation = overload(name) if exists(name) else None
        if operation is None or operation._schema.is_mutable or torch.Tag.pointwise not in operation.tags:
            continue
        composed = torch._C._dispatch_has_kernel_for_dispatch_key(full, "CompositeImplicitAutograd")
        if not composed and not torch._C._dispatch_has_kernel_for_dispatch_key(full, key):
            yield name
    yield from filter(exists, _OTHERS)
