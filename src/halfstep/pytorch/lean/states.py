"""How an optimizer's state is stored between steps: as the optimizer makes it, in bf16, or in 8 bits.

During a step it is fp32. Of a split weight the state is narrowed that has the weight's shape: moments, momentum, sums
of squares.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.shard import alike, local_of
from halfstep.pytorch.lean.stochastic import round_stochastically


class Fp32States:
    """Leaves state as the optimizer makes it."""

    #: an optimizer's state dict has narrow state as it is; otherwise as fp32
    saved_narrow = True

    def rows_together(self, weight: Tensor) -> int:
        """A weight is stepped in pieces of a multiple of so many rows; its last piece may have fewer."""
        return 1

    def is_narrow(self, state: Tensor) -> bool:
        """Whether this class has narrowed it."""
        return False

    def narrow(self, key: str, wide: Tensor, like: Tensor) -> Tensor | None:
        """Memory for fp32 state between steps; None where the state stays as it is.

        Args:
            key: the state's name in ``optimizer.state``.
            wide: the state, or some rows of it.
            like: has the shape and the strides of the whole state.
        """
        return None

    def read(self, state: Tensor, begin: int, end: int) -> Tensor:
        """Some rows of a state for a step: fp32 of a narrow one, else the same memory."""
        return state[begin:end]

    def write(self, wide: Tensor, weight: Tensor, state: Tensor, key: str, begin: int) -> None:
        """Write fp32 rows into a narrow state: here there is none.

        Args:
            wide: the rows.
            weight: the same rows of the fp32 weight after the step.
            state: the whole state, as :meth:`narrow` has made it.
            key: its name.
            begin: its first row that is written.
        """

    def widened(self, value: object) -> object:
        """A value of an optimizer's state dict, as fp32 where it is narrow state."""
        return value

    def widen_all(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """An optimizer is about to step these parameters: make their state fp32, 4 bytes per number."""

    def narrow_all(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """They have been stepped, and are still fp32."""


class NarrowStates(Fp32States):
    """Narrows state between steps."""

    @abstractmethod
    def wide(self, state: Tensor) -> Tensor:
        """Narrow state, or some rows of it, as fp32."""

    def read(self, state: Tensor, begin: int, end: int) -> Tensor:
        rows = state[begin:end]
        return self.wide(rows) if self.is_narrow(rows) else rows

    def widened(self, value: object) -> object:
        if not isinstance(value, Tensor) or not self.is_narrow(local := local_of(value)):
            return value
        wide = self.wide(local)
        return wide if local is value else alike(value, wide)

    def widen_all(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        with torch.no_grad():
            for state, key, value, master in _shaped(optimizer, masters):
                local = local_of(value)
                if self.is_narrow(local):
                    state[key] = master.like_parameter(self.wide(local))

    def narrow_all(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for state, key, value, master in _shaped(optimizer, masters):
                wide = local_of(value)
                narrow = None if self.is_narrow(wide) else self.narrow(key, wide, wide)
                if narrow is not None:
                    self.write(wide, master.numbers, narrow, key, 0)
                    state[key] = master.like_parameter(narrow)


class Bf16States(NarrowStates):
    """Keeps state in bf16 between steps, rounded stochastically.

    Each number x becomes one of its two bf16 neighbours, the upper one with probability
    (x - lower) / (upper - lower), so that the mean of many roundings is x. Rounded to nearest, an average that moves by
    less than half of bf16's last place would stand still (arXiv 2010.06192 has both for weights).

    The random bits are a hash of the number, of its place, and of the fp32 weight after the step. So the program's
    random generators are not used; the same training has the same numbers, also resumed or in another process; and the
    next step has other bits, unless neither the number nor the weight has moved. A number that bf16 can hold is not
    changed.
    """

    def is_narrow(self, state: Tensor) -> bool:
        """Whether it is bf16."""
        return state.dtype is torch.bfloat16

    def narrow(self, key: str, wide: Tensor, like: Tensor) -> Tensor | None:
        """bf16 memory for fp32 state."""
        return torch.empty_like(like, dtype=torch.bfloat16) if wide.dtype is torch.float32 else None

    def wide(self, state: Tensor) -> Tensor:
        """The same numbers."""
        return state.float()

    def write(self, wide: Tensor, weight: Tensor, state: Tensor, key: str, begin: int) -> None:
        """Round fp32 rows."""
        into = state[begin : begin + wide.shape[0]]
        seed = zlib.crc32(key.encode()) + begin * state[:1].numel()
        round_stochastically(wide, weight, into, seed % 2**32)


def _shaped(
    optimizer: Optimizer, masters: Iterable[Master]
) -> Iterator[tuple[dict[str, object], str, Tensor, Master]]:
    """All state that has the shape of its parameter: the dict, the key, the tensor, and the parameter."""
    for master in masters:
        parameter = master.parameter
        state = optimizer.state.get(parameter, {})
        for key, value in list(state.items()):
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                yield state, str(key), value, master
