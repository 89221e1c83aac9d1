"""Dividing an optimizer's gradients by the scale, device by device, and testing whether they are finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.grad_scaler.misuse import ScalerMisuse
from halfstep.pytorch.loss_scaling.gradients import Values, constant, gradients_of, unscale_, unscale_in_c_


def inverse_of(scale: Tensor) -> Tensor:
    """1 / scale; exact for a power of two. On a CPU made once per value: small operations cost more than passes."""
    return constant(1.0 / scale.item(), scale.device) if scale.is_cpu else scale.reciprocal()


def unscale_gradients(
    optimizer: Optimizer, inverse: Tensor, found_inf: Tensor, allow_fp16: bool, *, test_result: bool
) -> dict[torch.device, Tensor]:
    """Unscale in place; device -> 1 where a gradient there is not finite, else 0.

    Args:
        inverse: 1 / scale, on any device.
        found_inf: 1 where something else was found not to be finite, else 0.
        allow_fp16: whether parameters may be in fp16.
        test_result: whether a finite gradient may overflow as it is unscaled, as with a scale below 1.

    Raises:
        ScalerMisuse: the parameters are in fp16, and may not be.
    """
    if allow_fp16:
        _coalesce_half(optimizer)
    founds: dict[torch.device, Tensor] = {}
    with torch.no_grad():
        found, left = _unscale_in_c(gradients_of(optimizer), inverse, allow_fp16)
        if found is not None:
            founds[found.device] = found.maximum(found_inf.to(found.device))
        values = Values.of(left, own_part=False)
        if torch.float16 in values.dtypes and not allow_fp16:
            raise ScalerMisuse(
                "Attempting to unscale FP16 gradients; keep the parameters in float32 (model.float()) "
                "and compute in float16 by torch.autocast."
            )
        for device, tensors in values.by_device():
            if device not in founds:
                founds[device] = found_inf.to(device, copy=True, non_blocking=True)
            unscale_(tensors, inverse.to(device, non_blocking=True), founds[device], test_result=test_result)
    return founds


def _coalesce_half(optimizer: Optimizer) -> None:
    """Add up duplicate rows of sparse fp16 gradients: finite values may overflow when they are added."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.dtype is torch.float16 and p.grad is not None and p.grad.is_sparse:
                p.grad = p.grad.coalesce()


def _unscale_in_c(gradients: list[Tensor], inverse: Tensor, fp16: bool) -> tuple[Tensor | None, list[Tensor]]:
    """1.0 or 0.0 for what the kernels in C have unscaled, None if that was nothing; and the gradients left."""
    if not inverse.is_cpu:  # reading it would synchronize
        return None, gradients
    bad, left = unscale_in_c_(gradients, inverse.item(), fp16)
    return (torch.tensor(float(bad), device="cpu") if len(left) < len(gradients) else None), left
