"""One autocast list for all devices: CUDA's, applied on a CPU, too.

A CPU's own list leaves 16-bit inputs of softmax, norms, exp, log, sums and powers in 16 bits, which CUDA's computes in
fp32: the same program would train with other numbers on the two. A recipe promises fp32 where range or sums need it.
The operations of both lists are read from PyTorch's dispatcher, which has both devices' lists in every build. A listed
operation computes in fp32, except for those that this file names (tests compare each with CUDA's own autocast, on fake
tensors):

- an operation in both lists has the CPU's own kernel, which does the same;
- one in CUDA's list alone gets one of the kernels below, at the CPU's autocast key;
- one in the CPU's list alone stays as it is; with ``--as-on cuda`` PyTorch's type promotion decides, as on CUDA.

Autocast chooses dtypes for the forward pass; the backward pass follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfstep.passed_on import Keywords
from halfstep.pytorch.autocast.mixed_operands import of_one_dtype
from halfstep.pytorch.autocast.state import OUTSIDE, place
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, overload
from halfstep.pytorch.true_16bit import cast

KEY = "AutocastCPU"

#: in CUDA's list, cast to autocast's dtype
LOWER = frozenset(
    [
        "_convolution",
        "_convolution.deprecated",
        "convolution",
        "addmv",
        "addr",
        "mv",
        "chain_matmul",
        "einsum",
        "linalg_multi_dot",
        "linalg_vecdot",
        "_thnn_fused_lstm_cell",
        "_thnn_fused_gru_cell",
        "lstm_cell",
        "gru_cell",
        "rnn_tanh_cell",
        "rnn_relu_cell",
        "_scaled_dot_product_flash_attention",
        "cudnn_convolution",
        "cudnn_convolution_transpose",
    ]
)

#: in CUDA's list, cast to the widest dtype among the inputs
WIDEST = frozenset(
    [
        "addcdiv",
        "addcmul",
        "atan2",
        "bilinear",
        "cross",
        "dot",
        "vdot",
        "grid_sampler",
        "index_put",
        "tensordot",
        "scatter_add",
    ]
)

#: in CUDA's list, given ``dtype=torch.float32`` unless the caller names one. ``linalg_matrix_norm`` is not among them:
#: the orders 2, -2 and "nuc" refuse a 16-bit matrix whatever dtype is named, so that the matrix is cast.
FP32_RESULT = frozenset(
    [
        "prod",
        "prod.dim_int",
        "softmax.int",
        "log_softmax.int",
        "cumprod",
        "cumsum",
        "sum",
        "sum.dim_IntList",
        "linalg_vector_norm",
    ]
)

#: refused under CUDA's autocast
REFUSED = "binary_cross_entropy"

#: in the CPU's list alone, and kept: a CPU has no 16-bit kernel for it, or it is what CUDA does under another name
KEPT = ("fft_", "stft", "mkldnn_rnn_layer", "_addmm_activation")

_EXCLUDED = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def listed(device: str) -> frozenset[str]:
    """The operations of a device's autocast lists, e.g. ``softmax.int``, without ``aten::``."""
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device]
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return frozenset(name.removeprefix("aten::") for name in names if name.startswith("aten::"))


def apply(as_on_cuda: bool = False) -> Overrides:
    """Put CUDA's list into force in the CPU's autocast of this process; ``remove()`` puts the CPU's list back.

    Args:
        as_on_cuda: follow CUDA in everything: refuse what it refuses, and drop what is in the CPU's list alone.
    """
    ours, theirs = listed("cpu"), listed("cuda")
    overrides = Overrides("CUDA's autocast list, as on CUDA" if as_on_cuda else "CUDA's autocast list")
    for name in sorted(theirs - ours):
        overrides.put(name, KEY, _kernel(name))
    if as_on_cuda:
        overrides.put(REFUSED, KEY, _kernel(REFUSED))
        for name in sorted(ours - theirs):
            if not name.startswith(KEPT):
                overrides.pass_by(name, KEY)
    return overrides


def _kernel(name: str) -> Callable[..., Any]:
    """The kernel at autocast's key: casts, and calls the operation again below autocast.

    Outside of every region autocast is on, to float32, only to let operands of two dtypes meet.
    """
    operation, change = overload(name), _change(name)

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        outside = place() is OUTSIDE and torch.get_autocast_dtype("cpu") is torch.float32
        args, kwargs = (of_one_dtype if outside else change)(operation, args, kwargs)
        with torch._C._ExcludeDispatchKeyGuard(_EXCLUDED):
            return operation(*args, **kwargs)

    return kernel


Change = Callable[[Any, tuple[Any, ...], Keywords], tuple[tuple[Any, ...], Keywords]]


def _change(name: str) -> Change:
    if name == REFUSED:
        return _refuse
    if name in LOWER:
        return _to_lower
    if name in WIDEST:
        return _to_widest
    return _to_fp32_result if name in FP32_RESULT else _to_fp32


def _to(dtype: torch.dtype, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    """Cast to ``dtype``, but for float64, which no autocast casts."""
    source = (torch.float32, *SIXTEEN_BIT)
    return cast(args, dtype, source), cast(kwargs, dtype, source)


def _to_fp32(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    return _to(torch.float32, args, kwargs)


def _to_lower(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    return _to(torch.get_autocast_dtype("cpu"), args, kwargs)


def _to_widest(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    wide = any(isinstance(x, Tensor) and x.dtype is torch.float32 for x in (*args, *kwargs.values()))
    return _to(torch.float32 if wide else torch.get_autocast_dtype("cpu"), args, kwargs)


def _to_fp32_result(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    if args[0].dtype not in SIXTEEN_BIT:
        return args, kwargs
    place = [argument.name for argument in operation._schema.arguments].index("dtype")
    if len(args) > place:
        return (*args[:place], args[place] or torch.float32, *args[place + 1 :]), kwargs
    return args, {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}


def _refuse(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    raise RuntimeError(
        "torch.nn.functional.binary_cross_entropy is refused by CUDA's autocast, which --as-on cuda applies; use "
        "binary_cross_entropy_with_logits, which is safe, without the sigmoid before it."
    )
