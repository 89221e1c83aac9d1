"""``bf16-lean:states=bf16``: an optimizer's state is bf16 between steps, rounded stochastically.

During a step it is fp32. State of a split weight is rounded if it has the weight's shape: moments, momentum, sums of
squares. Each number x becomes one of its two bf16 neighbours, the upper one with probability
(x - lower) / (upper - lower), so that the mean of many roundings is x. Rounded to nearest, an average that moves by
less than half of bf16's last place would stand still (arXiv 2010.06192 has both for weights).

The random bits are a hash of the number, of its place, and of the fp32 weight after the step. So the program's random
generators are not used; the same training has the same numbers, also resumed or in another process; and the next step
has other bits, unless neither the number nor the weight has moved. A number that bf16 can hold is not changed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.shard import local_of
from halfstep.pytorch.lean.stochastic import round_stochastically


class Fp32States:
    """Leaves state as the optimizer makes it."""

    def stored(self, dtype: torch.dtype) -> torch.dtype:
        """Of which dtype state of ``dtype`` is between steps, if it has its weight's shape."""
        return dtype

    def widen(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """An optimizer is about to step these parameters."""

    def narrow(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """They have been stepped, and are still fp32."""


class Bf16States(Fp32States):
    """Keeps the state of split parameters in bf16 between steps."""

    def stored(self, dtype: torch.dtype) -> torch.dtype:
        """Of which dtype state of ``dtype`` is between steps, if it has its weight's shape."""
        return torch.bfloat16 if dtype is torch.float32 else dtype

    def widen(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """Make it fp32: 4 bytes per number."""
        with torch.no_grad():
            for state, key, value, _ in _shaped(optimizer, masters, torch.bfloat16):
                state[key] = value.float()

    def narrow(self, optimizer: Optimizer, masters: Iterable[Master]) -> None:
        """Make it bf16 again."""
        with torch.inference_mode(False), torch.no_grad():
            for state, key, value, master in _shaped(optimizer, masters, torch.float32):
                wide = local_of(value)
                narrow = torch.empty_like(wide, dtype=torch.bfloat16)
                round_state(wide, master.numbers, narrow, key)
                state[key] = master.like_parameter(narrow)


def round_state(wide: Tensor, weight: Tensor, narrow: Tensor, key: str, begin: int = 0) -> None:
    """Write the state named ``key`` into a bf16 tensor; ``begin``: how many of the weight's numbers lie before it."""
    round_stochastically(wide, weight, narrow, (zlib.crc32(key.encode()) + begin) % 2**32)


def _shaped(
    optimizer: Optimizer, masters: Iterable[Master], dtype: torch.dtype
) -> Iterator[tuple[dict[str, object], str, Tensor, Master]]:
    """All state of ``dtype`` that has the shape of its parameter: the dict, the key, the tensor, and the parameter."""
    for master in masters:
        parameter = master.parameter
        state = optimizer.state.get(parameter, {})
        for key, value in list(state.items()):
            if isinstance(value, Tensor) and value.dtype is dtype and value.shape == parameter.shape:
                yield state, str(key), value, master
