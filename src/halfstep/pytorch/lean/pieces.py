"""A large weight is stepped some rows at a time, by optimizers that treat each number by itself.

An embedding may be most of a model: as a whole, its fp32 weight and gradient would be most of the memory of a step. For
one call of the optimizer some of its rows are a parameter of their own, whose state is the same rows of the weight's
state. State that is one number per weight, such as the count of steps, begins at the same value for all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.memory import Memories
from halfstep.pytorch.lean.shard import local_of
from halfstep.pytorch.lean.split import Parts
from halfstep.pytorch.lean.states import Fp32States

#: optimizers of torch.optim that treat each number by itself; tests hold each to one call for the whole weight
ELEMENTWISE = frozenset(
    cls
    for name in ("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
    if (cls := getattr(torch.optim, name, None)) is not None
)  # fmt: skip


def can_be_cut(optimizer: Optimizer, master: Master) -> bool:
    """Whether the weight may be stepped some rows at a time: it and its gradient are dense, with their rows in order.

    Fused kernels are given whole tensors: they round the last few numbers of a tensor differently.
    """
    gradient = master.parameter.grad
    return (
        type(optimizer) in ELEMENTWISE
        and not any(group.get("fused") for group in optimizer.param_groups)
        and master.parts.weight.is_contiguous()
        and master.parts.weight.shape[0] > 1
        and gradient is not None
        and gradient.layout is torch.strided
    )


class Cut:
    """One weight in pieces of some rows, of which one at a time is fp32."""

    def __init__(self, optimizer: Optimizer, master: Master, masters: Masters, states: Fp32States) -> None:
        master.follow()
        self._optimizer, self._master = optimizer, master
        self._masters, self._states = masters, states
        self._before: dict[str, object] = dict(optimizer.state.get(master.parameter, {}))
        #: the state from which pieces are read, and into which they are written
        self._read: dict[str, Tensor] = {
            key: local_of(value)
            for key, value in self._before.items()
            if isinstance(value, Tensor) and value.shape == master.parameter.shape
        }
        self._whole: dict[str, Tensor] = {}
        self._of_one: dict[str, object] = {}

    def step(self, most: int, call: Callable[[Tensor], object], memory: Memories) -> None:
        """Step the weight.

        Args:
            most: how many numbers may be fp32 at once; one row may always be.
            call: steps the optimizer for the piece that it is given.
            memory: gives fp32 memory for the weight and the gradient of each piece.
        """
        master = self._master
        together = self._states.rows_together(master.parts.weight)
        rows = max(1, most // master.parts.weight[:together].numel()) * together
        for begin in range(0, master.parts.weight.shape[0], rows):
            end = min(begin + rows, master.parts.weight.shape[0])
            parts = self._masters.form.rows(master.parts, begin, end)
            piece = self._piece(parts, begin, end, memory)
            if self._before:
                self._optimizer.state[piece] = {k: self._of_piece(k, begin, end) for k in self._before}
            try:
                call(piece)
            finally:
                self._keep(self._optimizer.state.pop(piece, {}), piece, begin, end)
                self._put_back(piece, parts)
        if self._whole or self._of_one:
            whole = {k: self._whole_of(k, tensor) for k, tensor in self._whole.items()}
            self._optimizer.state[master.parameter] = {**self._before, **self._of_one, **whole}

    def _whole_of(self, key: str, tensor: Tensor) -> object:
        """The state, the object that it was where the same memory was written."""
        return self._before[key] if self._read.get(key) is tensor else self._master.like_parameter(tensor)

    def _piece(self, parts: Parts, begin: int, end: int, memory: Memories) -> Tensor:
        shown, gradient = self._master.shown, self._master.parameter.grad
        assert gradient is not None
        with torch.inference_mode(False), torch.no_grad():
            for one in memory:
                one.start([parts])
            if shown is not None:
                wide = shown[begin:end]
            else:
                self._masters.form.join([parts], [wide := memory[0].like(parts)])
            some = local_of(gradient)[begin:end]
            if some.dtype is not torch.float32:
                some = memory[1].like(parts).copy_(some)
            piece = nn.Parameter(wide)
            piece.grad = some
        return piece

    def _of_piece(self, key: str, begin: int, end: int) -> object:
        if key in self._read:
            return self._states.read(self._read[key], begin, end)
        value = self._before[key]
        return value.clone() if isinstance(value, Tensor) else value

    def _keep(self, made: dict[str, object], piece: Tensor, begin: int, end: int) -> None:
        """Keep the state that the optimizer has made or changed for a piece."""
        with torch.inference_mode(False), torch.no_grad():
            for key, value in made.items():
                if not isinstance(value, Tensor) or value.shape != piece.shape:
                    self._of_one[key] = value
                    continue
                into = self._into(key, value)
                if self._states.is_narrow(into):
                    self._states.write(value, piece.detach(), into, key, begin)
                elif into[begin:end].data_ptr() != value.data_ptr():
                    into[begin:end].copy_(value)

    def _into(self, key: str, value: Tensor) -> Tensor:
        """The whole state that keeps ``value``, the state of some rows."""
        if key not in self._whole:
            read, like = self._read.get(key), self._master.parts.weight
            if read is None or not self._states.is_narrow(read):
                narrow = self._states.narrow(key, value, like)
                read = read if narrow is None else narrow
            self._whole[key] = torch.empty_like(like, dtype=value.dtype) if read is None else read
        return self._whole[key]

    def _put_back(self, piece: Tensor, parts: Parts) -> None:
        wide = piece.detach()
        with torch.inference_mode(False), torch.no_grad():
            self._masters.form.split([wide], [parts])
            if self._master.shown is not None and not self._masters.form.exact:
                self._masters.form.join([parts], [wide])
