"""Bytes that a forward pass keeps for the backward pass: activations, and 16-bit copies of weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.loss_scaling.engine import inside_backward
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.products.dispatcher import hide_from_dynamo

#: why a record has no bytes of activations
FUNCTIONAL = "the step uses torch.func, which runs no hooks on the tensors that it keeps"
OWN_HOOKS = "the script has hooks of its own on the tensors that are kept"
IN_PASS = "the program's steps end inside of a backward pass"
MOVED = "the training loop moved to another thread during the sampled step"

_CAST, _LEAF = "ToCopyBackward0", "torch::autograd::AccumulateGrad"


class Activations:
    """Bytes that the graph keeps for the backward pass: the largest sum among the step's forward passes.

    Autocast keeps 16-bit copies of weights for the same time; they are counted separately.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        self.peak = 0
        self.casts = 0
        self._total = 0
        self._live: dict[int, int] = {}
        self._weights = {storage[0] for t in weights if (storage := _storage(t)) is not None}

    def pack(self, tensor: Tensor) -> None:
        """Note a tensor that is kept. Each storage counts once; weights and casts of weights do not count."""
        storage = _storage(tensor)
        if storage is None or storage[0] in self._weights or self._is_cast(tensor):
            return
        address, size = storage
        self._total += size - self._live.get(address, 0)
        self._live[address] = size
        self.peak = max(self.peak, self._total)

    def _is_cast(self, tensor: Tensor) -> bool:
        base = tensor._base if tensor._is_view() else tensor
        return base is not None and base.grad_fn is not None and self._casts_weight(base.grad_fn)

    def _casts_weight(self, node: Any) -> bool:
        """Whether a node of the graph is the cast of a weight to another format."""
        if node.name() != _CAST:
            return False
        leaf = node.next_functions[0][0]
        if leaf is None or leaf.name() != _LEAF:
            return False
        storage = _storage(leaf.variable)
        return storage is not None and storage[0] in self._weights

    def begin_pass(self, outputs: Sequence[Tensor]) -> None:
        """A backward pass starts from ``outputs``; the casts of weights in its graph stay until it is over."""
        self.casts = max(
            self.casts, sum(_output_bytes(node) for node in graph(outputs) if self._casts_weight(node))
        )

    def passed(self) -> None:
        """A backward pass is over: its graph has been freed."""
        self._live.clear()
        self._total = 0


def graph(outputs: Sequence[Tensor]) -> Iterator[Any]:
    """The nodes of the graph behind ``outputs``, in no order."""
    stack = [output.grad_fn for output in outputs]
    found = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += [following for following, _ in node.next_functions]
            yield node


def _output_bytes(node: Any) -> int:
    made = node._input_metadata[0]
    return int(torch.Size(made.shape).numel()) * int(made.dtype.itemsize)


def _storage(tensor: Tensor) -> tuple[int, int] | None:
    """Where a tensor's memory begins, and its bytes; None for one without a single memory, such as a sparse one."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except (NotImplementedError, RuntimeError):
        return None


class KeptTensors:
    """Lets PyTorch report each tensor that it keeps, in one thread, if nobody else uses its hooks.

    Attributes:
        absent: why it could not; empty if it could.
    """

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        self.absent = ""
        self._note = note
        self._thread = threading.get_ident()
        self._on = False
        self._aside = False  # taken away while torch.func runs
        self._patches = Patches()

    def begin(self) -> None:
        """Start, in this thread; hooks that are set inside a backward pass would be gone after it."""
        if inside_backward():
            self.absent = IN_PASS
        elif torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            self.absent = OWN_HOOKS  # only the innermost hooks run: halfstep's would replace the script's
        else:
            self._push()
            self._patches.wrap(torch._C._autograd, "_saved_tensors_hooks_disable", self._disabling)
            self._patches.wrap(torch._C._autograd, "_saved_tensors_hooks_enable", self._enabling)

    def _push(self) -> None:
        torch._C._autograd._push_saved_tensors_default_hooks(self._pack, _unpack)
        self._on = True

    def _pack(self, tensor: Tensor) -> Tensor:
        if not self.absent:
            self._note(tensor)
        return tensor

    def _disabling(self, original: Callable[..., None]) -> Callable[..., None]:
        """Take the hooks away while ``torch.func`` runs, which refuses to run inside hooks.

        A compiler that traces ``torch.func`` calls this function, too, as ``disable_saved_tensors_hooks`` does.
        """

        def _saved_tensors_hooks_disable(message: str, fail_if_non_empty: bool = True, **more: Any) -> None:
            if fail_if_non_empty and self._is_here() and self._innermost():
                self.absent, self._aside = FUNCTIONAL, True
                torch._C._autograd._pop_saved_tensors_default_hooks()
            original(message, fail_if_non_empty, **more)

        return _saved_tensors_hooks_disable

    def _enabling(self, original: Callable[[], None]) -> Callable[[], None]:
        def _saved_tensors_hooks_enable() -> None:
            original()
            if self._aside and self._is_here():
                self._aside = False
                torch._C._autograd._push_saved_tensors_default_hooks(self._pack, _unpack)

        return _saved_tensors_hooks_enable

    def _is_here(self) -> bool:
        """Whether they are in force in this thread."""
        return self._on and threading.get_ident() == self._thread

    def _innermost(self) -> bool:
        """Whether nobody has set other hooks inside these in this thread."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        return top is not None and top[0] == self._pack

    def end(self) -> None:
        """Stop. Hooks that cannot be taken away here note nothing from now on, and :meth:`leave` takes them away."""
        self._patches.undo()
        if self._aside and self._is_here():
            self._on = self._aside = False
        if not self._on:
            return
        if threading.get_ident() != self._thread:
            self.absent = self.absent or MOVED
        elif inside_backward():
            self.absent = self.absent or IN_PASS
        self.leave()
        self._note = _ignore

    def leave(self) -> bool:
        """Take the hooks away if that is possible here; returns whether they are gone."""
        if self._is_here() and not inside_backward() and self._innermost():
            torch._C._autograd._pop_saved_tensors_default_hooks()
            self._on = False
        return not self._on


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


def _ignore(tensor: Tensor) -> None:
    return


# Between graphs, Dynamo would compile the functions that PyTorch calls here.
for _hook in (KeptTensors._pack, _unpack):
    hide_from_dynamo(_hook)
