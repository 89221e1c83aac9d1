"""Rows of a bf16 embedding come out as fp32, as those of an fp32 embedding do in autocast.

A model adds the results of its layers to these rows: in bf16 each sum would be rounded. The gradient is summed over
equal indices in fp32, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from halfstep.pytorch.autocast.mixed_operands import KEYS
from halfstep.pytorch.products.dispatcher import Overrides

_EMBEDDING = torch.ops.aten.embedding.default


def in_fp32(devices: Iterable[str]) -> Overrides:
    """Put the kernel at autocast's key of ``devices``; returns what takes it away again."""
    overrides = Overrides("rows of bf16 embeddings in fp32")
    for key in (KEYS[device] for device in devices if device in KEYS):
        overrides.put("embedding", key, _kernel(key))
    return overrides


def _kernel(key: str) -> Any:
    keys = DispatchKeySet(getattr(DispatchKey, key))

    def kernel(keyset: Any, weight: Tensor, indices: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            if weight.dtype is not torch.bfloat16:
                rows: Tensor = _EMBEDDING(weight, indices, *args, **kwargs)
                return rows
            return _looked_up(weight, indices, *args, **kwargs)

    return kernel


def _looked_up(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if sparse:  # its gradient is a list of rows: nothing has been summed
        rows: Tensor = _EMBEDDING(weight, indices, padding_idx, scale_grad_by_freq, sparse)
        return rows.float()
    looked_up: Tensor = _Rows.apply(weight, indices, padding_idx, scale_grad_by_freq)  # type: ignore[no-untyped-call]
    return looked_up


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool
    ) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.rest = (weight.shape[0], padding_idx, scale_grad_by_freq)
        rows: Tensor = _EMBEDDING(weight, indices)
        return rows.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (indices,) = ctx.saved_tensors
        summed = torch.ops.aten.embedding_dense_backward(gradient.float(), indices, *ctx.rest)
        return summed.to(torch.bfloat16), None, None, None
