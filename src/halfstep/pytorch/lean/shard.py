"""The shard of a weight in one process under FSDP2: bf16 numbers, which FSDP2 gathers, and their remainders."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.split import Parts
from halfstep.pytorch.weights.widening import is_dtensor


class Shard(Master):
    """The fp32 numbers of this process's shard of one parameter.

    Args:
        fsdp: FSDP2's ``FSDPParam``, which holds the parameter.
        parts: of the shard; ``parts.weight`` is a part of FSDP2's flat tensor.
        set_local: puts a tensor into a DTensor.
    """

    __slots__ = ("_fsdp", "_set_local", "_size")

    def __init__(self, fsdp: Any, parts: Parts, set_local: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__(fsdp.sharded_param, parts)
        self._fsdp = weakref.ref(fsdp)
        self._set_local = set_local
        self._size: int = fsdp.padded_sharded_param_size.numel()

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        return (self.parts.weight,)

    @property
    def numbers(self) -> Tensor:
        return self.parts.weight if self._wide is None else self._wide

    @property
    def size(self) -> int:
        return self._size

    def like_parameter(self, local: Tensor) -> Tensor:
        """A DTensor of the parameter's kind with the numbers ``local`` in this process."""
        return of_local(self._fsdp(), local)

    def put_up(self, wide: Tensor) -> None:
        self._wide = wide

    def put_down(self) -> None:
        """Let the parameter look at the tensor that is shown."""
        self._wide = None

    def put_instead(self) -> Tensor | None:
        """None: a DTensor that gets another local tensor is held no longer."""
        return None

    def agrees(self) -> None:
        """Nobody but FSDP2 sees the bf16 numbers."""

    def follow(self) -> None:
        """Nobody but FSDP2 sees the bf16 numbers."""

    def let_go(self, wide: Tensor) -> None:
        """Make the parameter one that FSDP2 shards in fp32."""
        fsdp: Any = self._fsdp()
        if fsdp is None or fsdp.sharded_param is not self.parameter:  # FSDP2 holds it no longer
            self._set_local(self.parameter, wide)
            return
        flat, part = padded(fsdp, wide)
        part.copy_(wide)
        put(fsdp, flat)
        self._set_local(self.parameter, part)


class Gathered:
    """A whole weight that FSDP2 gathers for a pass, in bf16."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weakref.ref(weight)
        self.remainder = weight.new_empty(0, dtype=torch.int16)

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        """The weight itself."""
        weight = self._weight()
        return () if weight is None else (weight,)


def of_local(one: Any, local: Tensor) -> Tensor:
    """A DTensor like FSDP2's parameter, with the local tensor ``local`` and its dtype."""
    return _by_spec(one._sharding_spec, local)


def alike(other: Any, local: Tensor) -> Tensor:
    """A DTensor that is spread as ``other`` is, with the local tensor ``local`` and its dtype."""
    return _by_spec(other._spec, local)


def _by_spec(spec: Any, local: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._dtensor_spec import TensorMeta

    meta = TensorMeta(spec.tensor_meta.shape, spec.tensor_meta.stride, local.dtype)
    return DTensor(local, replace(spec, tensor_meta=meta), requires_grad=False)


def local_of(tensor: Tensor) -> Tensor:
    """The local tensor of a DTensor; any other tensor itself."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def padded(one: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """A flat tensor of zeros, as long as in every process, and the part of it that is this process's shard."""
    size, dim = one.padded_sharded_param_size, one.fsdp_placement.dim
    flat = torch.zeros(size.numel(), dtype=like.dtype, device=like.device)
    length = like.shape[dim] if like.numel() else 0
    return flat, flat.view(size).narrow(dim, 0, length)


def put(one: Any, flat: Tensor) -> None:
    """Let FSDP2 gather from ``flat`` from now on, and make the whole weight anew."""
    one._sharded_param_data = flat
    one.all_gather_outputs = []
    if hasattr(one, "_unsharded_param"):
        del one._unsharded_param
