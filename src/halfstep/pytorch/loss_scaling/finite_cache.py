"""Remembers which gradients were tested and not written to since: a step need not read them again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.optim import Optimizer

from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling.gradients import (
    all_finite,
    are_plain,
    multiply_and_test_,
    trouble_in,
    values_of,
    versions_of,
)
from halfstep.pytorch.loss_scaling.pending_flag import Verdict
from halfstep.pytorch.loss_scaling.scaled_pass import NoScaledPass
from halfstep.pytorch.patches import Patches

#: methods that give out a tensor's memory, which can then be written to without PyTorch noticing
_EXPOSING = ("numpy", "untyped_storage", "__dlpack__")

_NONE: set[UntypedStorage] = set()

_storage_of: Callable[[Tensor], UntypedStorage] = torch._C.TensorBase.untyped_storage


class FiniteCache:
    """The results of tests of gradients, and whether they still hold: the value tested has to be the value used.

    PyTorch counts the writes to a tensor (its version), so a gradient with the version that it had at its test is
    unchanged. Writes that PyTorch does not count are followed here: memory that was given out (to NumPy, by DLPack,
    through ``.data``, on a CPU as a pointer) may be written to at any time, as long as it lives. Collectives, the
    kernel of ``GradScaler`` and a GPU's kernels, which get pointers, write when they are called. A pointer that C++
    code takes by itself is not noticed.

    Args:
        in_cpp: knows the gradients on a CPU that C++ code has unscaled and tested.

    Attributes:
        trouble: what is not finite, in words, after a test that found something.
    """

    def __init__(self, in_cpp: NoScaledPass) -> None:
        self.trouble: str | None = None
        self._in_cpp = in_cpp
        self._versions: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._flags: list[Tensor] = []
        self._one_test = False
        self._plain = True  # whether all gradients recorded since the cache was cleared are plain tensors
        self._captured = False
        self._written: set[UntypedStorage] = set()
        self._exposed: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def install(self, patches: Patches) -> None:
        """Wrap the ways to give out a tensor's memory."""
        for name in _EXPOSING:
            patches.wrap(Tensor, name, self._exposing)
        patches.wrap(Tensor, "data_ptr", self._pointing)
        patches.set(Tensor, "data", self._exposing_data(Tensor.data))
        patches.wrap(torch._C, "_to_dlpack", self._exposing)
        for home in (torch, torch.utils.dlpack):
            patches.wrap(home, "to_dlpack", self._exposing)
        patches.wrap(torch.utils, "swap_tensors", self._swapping)
        patches.wrap(torch, "_amp_foreach_non_finite_check_and_unscale_", self._unscaling)

    def multiply_(self, gradients: list[Tensor], factor: float) -> None:
        """Multiply ``gradients`` by a power of two in place, and remember whether the products are finite."""
        self.record(gradients, multiply_and_test_(gradients, factor))

    def record(self, gradients: Sequence[Tensor], flags: list[Tensor]) -> None:
        """Remember that ``gradients``, as they are now, were tested; ``flags`` tell the outcome.

        For a DTensor PyTorch does not count the writes to this rank's part, which has its own count.
        """
        versions = self._versions
        plain = are_plain(gradients)
        self._plain = plain and (self._plain or not versions)
        if plain:  # without a loop in Python, since this runs for every gradient of every pass
            known = zip(map(weakref.ref, gradients), versions_of(gradients), strict=True)
            versions.update(zip(map(id, gradients), known, strict=True))
        else:
            dense = [g for g in gradients if g.layout is torch.strided]
            versions.update({id(g): (weakref.ref(g), values_of(g)._version) for g in dense})
        self._captured = capturing()
        self._one_test = len(versions) == len(gradients)  # then this result replaces all earlier ones
        if self._one_test:
            self._flags = []
            if not self._in_cpp.remembers:
                self._written.clear()
        self._flags = self._flags + flags

    @property
    def unchanged(self) -> bool:
        """Whether gradients on a CPU were unscaled in C++, found finite, and not written to since."""
        return self._in_cpp.unchanged()

    def clipped(self, tensors: Iterable[Tensor], norm: Tensor, known: bool) -> None:
        """The gradients of ``tensors`` were clipped: their ``norm`` is finite only if each of them was.

        Args:
            known: the value of :attr:`unchanged` before.
        """
        if known and norm.is_cpu:
            if math.isfinite(norm):
                self._in_cpp.written()
            return
        gradients = [grad for p in tensors if (grad := p.grad) is not None]
        self.record(gradients, [(~torch.isfinite(norm)).float().reshape(1)])

    def finite_of(self, optimizer: Optimizer) -> bool:
        """Whether all gradients that ``optimizer`` will use are on a CPU and known to be finite without a read."""
        return self._in_cpp.remembers and self._in_cpp.holds_of(optimizer, self._may_have_changed())

    def finite(self, gradients: Sequence[Tensor]) -> bool:
        """Whether all gradients are finite, as the optimizer will use them. One synchronisation.

        Gradients that the unscaling pass has tested and that nobody has changed since are not read again.
        """
        if self._in_cpp.remembers and self._in_cpp.holds(gradients, self._may_have_changed()):
            return True
        if self._unchanged(gradients) and not any(bool(flag) for flag in self._flags):
            return True
        # Not tested yet, or one gradient of the pass was not finite: only a read shows whether it is one of these.
        finite = all_finite(gradients)
        self.trouble = None if finite else trouble_in(gradients)
        return finite

    def verdict(self, gradients: Sequence[Tensor]) -> Verdict:
        """As :meth:`finite`, of gradients on one device, without waiting for the answer.

        A clipping norm that overflows although every gradient is finite counts as bad here: telling the two apart
        takes another pass over the gradients.
        """
        return Verdict(self._found(gradients))

    def found_in_graph(self, gradients: Sequence[Tensor]) -> Tensor:
        """1 where a gradient is not finite, else 0: a float32 scalar on their device, computed in a captured step.

        Gradients that were tested outside the graph are tested in it again. It does not synchronise.
        """
        found = self._found(gradients) if self._captured else self._in_one(gradients, tested=False)
        self.forget()
        return found

    def _found(self, gradients: Sequence[Tensor]) -> Tensor:
        tested = self._one_test and len(self._versions) == len(gradients) and self._unchanged(gradients)
        return self._in_one(gradients, tested)

    def _in_one(self, gradients: Sequence[Tensor], tested: bool) -> Tensor:
        flags = self._flags if tested else multiply_and_test_(gradients, 1.0)
        scalars = [flag.reshape(()) for flag in flags]
        return scalars[0] if len(scalars) == 1 else torch.stack(scalars).amax()

    def written(self, tensors: Iterable[Tensor]) -> None:
        """PyTorch does not count a write to ``tensors``: gradients in their memory have to be read again."""
        if self._versions or self._in_cpp.remembers:
            self._written.update(_storages(tensors))

    def forget(self) -> None:
        """Forget all results: a step is over, whether it used the gradients or not."""
        self.trouble = None
        self._versions.clear()
        self._in_cpp.forget()
        self._written.clear()
        self._flags = []

    def _unchanged(self, gradients: Sequence[Tensor]) -> bool:
        """Whether each was tested and not written to since; this runs for every gradient of every step."""
        entries = list(map(self._versions.get, map(id, gradients)))
        own = gradients if self._plain else [values_of(gradient) for gradient in gradients]
        for entry, gradient, version in zip(entries, gradients, versions_of(own), strict=True):
            if entry is None or entry[1] != version or entry[0]() is not gradient:
                return False
        exposed = self._may_have_changed()
        return not exposed or exposed.isdisjoint(_storages(gradients))

    def _may_have_changed(self) -> set[UntypedStorage]:
        """The memory of which PyTorch does not count all writes."""
        return {*self._written, *self._exposed} if self._written or self._exposed else _NONE

    def _expose(self, tensor: Tensor) -> None:
        """Note that its memory may be written to from now on; the memory of a leaf with gradients holds no gradient."""
        if not tensor.requires_grad:
            self._exposed.update(_storages([tensor]))

    def _exposing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def expose(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            self._expose(tensor)
            return original(tensor, *args, **kwargs)

        return expose

    def _pointing(self, original: Callable[[Tensor], int]) -> Callable[[Tensor], int]:
        """Wrap ``data_ptr``, which Triton's launchers call for each argument of each kernel, so it has to be fast.

        On a GPU a kernel gets the pointer and writes when it is launched; that matters only for tested gradients.
        """
        tested = self._versions

        def data_ptr(tensor: Tensor) -> int:
            if not tensor.is_cuda:
                self._expose(tensor)
            elif id(tensor) in tested:
                self.written([tensor])
            return original(tensor)

        return data_ptr

    def _exposing_data(self, original: Any) -> property:
        """Wrap ``Tensor.data``: reading it makes an alias with its own version, setting it changes the memory."""

        def get(tensor: Tensor) -> Tensor:
            self._expose(tensor)
            return original.__get__(tensor)  # type: ignore[no-any-return]

        def set_(tensor: Tensor, data: Tensor) -> None:
            original.__set__(tensor, data)
            self._versions.pop(id(tensor), None)
            self._expose(tensor)

        return property(get, set_)

    def _swapping(self, original: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``swap_tensors``, which refuses tensors that have weak references."""

        def swap_tensors(*args: Any, **kwargs: Any) -> None:
            self.forget()
            original(*args, **kwargs)

        return swap_tensors

    def _unscaling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def unscale(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self.written(tensors)
            return original(tensors, *args, **kwargs)

        return unscale


def _storages(tensors: Iterable[Tensor]) -> list[UntypedStorage]:
    """The memory of tensors; those that have none (in ``torch.func``, in a lazy layer) are left out."""
    found = []
    for tensor in tensors:
        try:
            found.append(_storage_of(values_of(tensor)))
        except (NotImplementedError, RuntimeError, ValueError):
            continue
    return found
