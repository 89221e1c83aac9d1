"""Passes over many gradients at once: multiply them, and tell whether all of them are finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling.gradient_kernels import gradient_kernels
from halfstep.pytorch.patches import never_traced

# The attributes' C getters: in a Python loop, three attributes of 10,000 gradients would take 1 ms more.
_dtype, _layout, _on_cpu, _device, _version = (
    cast(Callable[[Tensor], Any], getattr(Tensor, name).__get__)
    for name in ("dtype", "layout", "is_cpu", "device", "_version")
)

_COMPRESSED = {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}

_unscale_and_test = torch._amp_foreach_non_finite_check_and_unscale_

# One tensor per (device, value): the kernels read their factor from the device.
_CONSTANTS: dict[tuple[torch.device, float], Tensor] = {}


@dataclass(frozen=True)
class Values:
    """The numbers of gradients, as dense real tensors that share their memory."""

    tensors: list[Tensor]  #: of a sparse gradient, its values; of a complex one, its real and imaginary parts
    dtypes: frozenset[torch.dtype]
    on_cpu: bool  #: whether all lie in host memory

    @classmethod
    def of(cls, gradients: Iterable[Tensor], own_part: bool = True) -> Values:
        """The values of ``gradients``; for a DTensor those of this rank's part, unless ``own_part`` is False."""
        found = list(gradients)
        dtypes = set(map(_dtype, found))
        plain = are_dense(found) and not any(dtype.is_complex for dtype in dtypes)
        if not plain or (own_part and set(map(type, found)) - {Tensor}):
            found = [values_of(gradient, own_part) for gradient in found]
            dtypes = set(map(_dtype, found))
        return cls(found, frozenset(dtypes), all(map(_on_cpu, found)))

    def by_device(self) -> Iterable[tuple[torch.device, list[Tensor]]]:
        """Lists of tensors of one device each, and of one dtype each if the multi-tensor kernels need that."""
        if not self.tensors:
            return []
        if self.on_cpu:
            return [(self.tensors[0].device, self.tensors)]
        devices = devices_of(self.tensors)
        if len(devices) == len(self.dtypes) == 1:
            return [(devices.pop(), self.tensors)]
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in self.tensors:
            groups[tensor.device, tensor.dtype].append(tensor)
        return [(device, tensors) for (device, _), tensors in groups.items()]


def are_dense(gradients: Sequence[Tensor]) -> bool:
    """Whether none is sparse."""
    return set(map(_layout, gradients)) <= {torch.strided}


def are_plain(gradients: Sequence[Tensor]) -> bool:
    """Whether all are dense tensors of no subclass (such as DTensor)."""
    return set(map(type, gradients)) <= {Tensor} and are_dense(gradients)


def devices_of(gradients: Iterable[Tensor]) -> set[torch.device]:
    """The devices that they are on."""
    return set(map(_device, gradients))


def versions_of(gradients: Iterable[Tensor]) -> Iterable[int]:
    """How often each was written to, as counted by PyTorch."""
    return map(_version, gradients)


def values_of(gradient: Tensor, own_part: bool = True) -> Tensor:
    """The numbers of one gradient as a dense real tensor that shares its memory."""
    if gradient.layout is torch.sparse_coo:
        gradient = gradient._values()
    elif gradient.layout in _COMPRESSED:
        gradient = gradient.values()
    if own_part:
        gradient = getattr(gradient, "_local_tensor", gradient)
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every gradient that ``optimizer`` is about to use."""
    return [grad for group in optimizer.param_groups for p in group["params"] if (grad := p.grad) is not None]


def gradients_at(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of ``tensors``, each once, even if two of them share it."""
    found = [grad for tensor in tensors if (grad := tensor.grad) is not None]
    return (
        found if len(set(map(id, found))) == len(found) else list({id(grad): grad for grad in found}.values())
    )


def constant(value: float, device: torch.device) -> Tensor:
    """A float32 scalar on ``device``, made once; a capture into a CUDA graph gets one of its own."""
    key = (device, value)
    if key in _CONSTANTS:
        return _CONSTANTS[key]
    made = torch.full((), value, dtype=torch.float32, device=device)
    return made if capturing() else _CONSTANTS.setdefault(key, made)


def unscale_(tensors: list[Tensor], factor: Tensor, found: Tensor, test_result: bool) -> None:
    """Multiply by ``factor`` in place, and set ``found`` to 1 if a value is not finite: one read and write pass.

    With DTensors ``found`` becomes the maximum over the ranks.

    Args:
        tensors: of one device.
        found: float32 of shape [1].
        test_result: test the products and not the tensors, at the cost of a second pass. It is needed if the factor is
            above 1: 3e38 * 2^10 overflows although 3e38 is finite.
    """
    _unscale_and_test(tensors, found, factor)
    if test_result:
        _unscale_and_test(tensors, found, torch.ones_like(factor))


def multiply_(gradients: Iterable[Tensor], factor: float) -> None:
    """Multiply gradients in place by a power of two: one read and write pass.

    For many tensors on a CPU the kernels that also test are four times faster than ``torch._foreach_mul_``.
    """
    _, left = unscale_in_c_(list(gradients), factor)
    if left:
        _by_pytorch(left, factor, test_result=False)


def multiply_and_test_(gradients: Iterable[Tensor], factor: float) -> list[Tensor]:
    """Multiply gradients in place by a power of two and test the results, in one pass if ``factor`` is at most 1.

    Returns:
        One float32 flag of shape [1] per device, 1.0 if any result is not finite. Reading one synchronises.
    """
    bad, left = unscale_in_c_(list(gradients), factor)
    flags = _by_pytorch(left, factor, test_result=factor > 1.0) if left else {}
    if bad:
        flags[torch.device("cpu")] = torch.ones(1, device="cpu")
    return list(flags.values())


@torch.no_grad()
def _by_pytorch(gradients: list[Tensor], factor: float, test_result: bool) -> dict[torch.device, Tensor]:
    """Multiply and test by PyTorch's kernel; one flag per device."""
    values = Values.of(gradients)
    if factor != 1.0:  # autograd has to know about the write, which the kernel does not report
        torch.autograd.graph.increment_version(values.tensors)
    flags: dict[torch.device, Tensor] = {}
    for device, tensors in values.by_device():
        found = flags.setdefault(device, torch.zeros(1, device=device))
        unscale_(tensors, constant(factor, device), found, test_result)
    return flags


@never_traced
def unscale_in_c_(gradients: list[Tensor], factor: float, fp16: bool = True) -> tuple[bool, list[Tensor]]:
    """Multiply and test, in one pass for any factor, the gradients that the kernels in C can take.

    Returns:
        Whether a result is not finite, and the gradients that are left to PyTorch's kernels.
    """
    if not gradients or not gradients[0].is_cpu or (kernels := gradient_kernels()) is None:
        return False, gradients
    return kernels.unscale_(gradients, factor, fp16)


def all_finite(gradients: Iterable[Tensor]) -> bool:
    """Whether every value is finite: one pass, one synchronisation per device.

    For a sparse gradient the sums of duplicate rows are tested, since an optimizer adds those.
    """
    summed = (g.coalesce() if g.layout is torch.sparse_coo else g for g in gradients)
    return not any(bool(flag) for flag in multiply_and_test_(summed, 1.0))


def trouble_in(gradients: Iterable[Tensor]) -> str | None:
    """What is not finite, in words; None if everything is. It takes some passes and synchronisations."""
    found = list(gradients)
    bad = [g for g in found if not torch.isfinite(values_of(g)).all()]
    if not bad:
        return None
    return f"{len(bad)} of {len(found)} gradients are not finite, the first of shape {tuple(bad[0].shape)}"
