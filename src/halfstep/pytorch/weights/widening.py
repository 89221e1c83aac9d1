"""Casts 16-bit tensors to float32 in place; exactly, since every bf16 and fp16 number is an fp32 number.

A parameter object gets new data, as in ``Module.to``. So an optimizer that was made before holds the widened parameter,
and tied weights stay tied.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.lean import registry

#: layers whose frozen weights autocast casts to its own 16 bits at each use: stored in 16 bits they give the same
#: numbers
_PRODUCTS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def is_narrow(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a leaf that is stored in bf16 or fp16.

    Quantized tensors do not count, whose dtype is that of the numbers they stand for, nor weights with a remainder.
    """
    if tensor.dtype not in SIXTEEN_BIT or not tensor.is_leaf or is_functorch_wrapped_tensor(tensor):
        return False
    if registry.held(tensor) is not None:
        return False
    return _is_plain(tensor) or is_dtensor(tensor)


def is_alone(tensor: Tensor) -> bool:
    """Whether nothing else uses the memory of ``tensor``: no view, no NumPy array, no tied weight."""
    if not _is_plain(tensor) or tensor.is_meta or tensor.layout is not torch.strided:
        return True
    return _uses(tensor) == _uses_of_one()


@functools.cache
def _uses_of_one() -> int:
    with plainly():
        return _uses(torch.empty(1))


def _uses(tensor: Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def narrow_tensors(module: nn.Module, only_used_by_products: bool) -> dict[str, Tensor]:
    """The 16-bit tensors of ``module`` itself, not of its children, that are to be widened.

    Under autocast to 16 bits, buffers that are not saved with the model (``persistent=False``) and tensors that are
    plain attributes stay 16-bit: they are constants that the program has computed in 16 bits, such as rotary
    embeddings, and they meet 16-bit numbers. Under fp32 they are widened, since the program may write its fp32 results
    into them.

    Args:
        only_used_by_products: autocast is to 16 bits: leave out frozen weights that only matrix products use.
    """
    frozen_stay = only_used_by_products and type(module) in _PRODUCTS
    found: dict[str, Tensor] = {
        name: parameter
        for name, parameter in module._parameters.items()
        if parameter is not None
        and (parameter.requires_grad or not frozen_stay or name not in ("weight", "bias"))
    }
    found |= not_trained(module, only_used_by_products)
    return {name: tensor for name, tensor in found.items() if is_narrow(tensor)}


def not_trained(module: nn.Module, only_saved: bool) -> dict[str, Tensor]:
    """Buffers of ``module`` itself, and tensors that are plain attributes; ``only_saved``: persistent buffers alone."""
    buffers = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
    if only_saved:
        return {n: b for n, b in buffers.items() if n not in module._non_persistent_buffers_set}
    return {**{n: v for n, v in vars(module).items() if isinstance(v, Tensor)}, **buffers}


def widen(tensors: Iterable[Tensor]) -> None:
    """Make leaf tensors and their gradients float32 in place; tensors that share memory share it afterwards, too."""
    wide: dict[Any, Tensor] = {}
    with plainly():
        for tensor in tensors:
            gradient, tensor.grad = tensor.grad, None
            if _is_plain(tensor):
                # PyTorch cannot use a parameter from inference mode with data from outside of it.
                with torch.inference_mode(not is_lazy(tensor) and tensor.is_inference()):
                    tensor.data = _shared(tensor.data, wide)
            else:
                torch.utils.swap_tensors(tensor, _like(tensor, tensor.detach().to(torch.float32)))
            if gradient is not None:
                tensor.grad = gradient.to(torch.float32)


@contextmanager
def plainly() -> Iterator[None]:
    """A context outside of the caller's ``inference_mode``, function transforms and dispatch modes.

    A weight that is made inside of a transform (``torch.func.grad``) is of no use after it.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        temporarily_clear_interpreter_stack(),
        _disable_current_modes(),
    ):
        yield


def _shared(data: Tensor, wide: dict[Any, Tensor]) -> Tensor:
    """``data`` in float32; memory that several tensors use in the same way is copied once."""
    if is_lazy(data) or data.is_meta or data.numel() == 0 or data.layout is not torch.strided:
        return data.to(torch.float32)
    memory = (data.data_ptr(), data.dtype, data.shape, data.stride(), data.device)
    if memory not in wide:
        wide[memory] = data.to(torch.float32)
    return wide[memory].view_as(wide[memory])


def _like(tensor: Tensor, data: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, tensor.requires_grad)
    return data.requires_grad_(tensor.requires_grad)


def _is_plain(tensor: Tensor) -> bool:
    return not is_traceable_wrapper_subclass(tensor)


def is_dtensor(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, which several processes share."""
    return type(tensor).__module__.startswith("torch.distributed.tensor")
