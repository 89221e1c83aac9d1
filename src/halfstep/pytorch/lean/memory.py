"""Memory for the fp32 numbers of a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from halfstep.pytorch.lean.split import Parts, is_dense


class Memory:
    """Memory that one group of tensors after the other uses.

    New memory for each group would lie between tensors that the optimizer keeps, and leave gaps there.
    """

    def __init__(self) -> None:
        self._blocks: dict[torch.device, Tensor] = {}
        self._used: dict[torch.device, int] = {}

    def start(self, parts: Iterable[Parts]) -> None:
        """Begin the group of ``parts``; tensors that were given out before are not used any more."""
        needed: dict[torch.device, int] = {}
        for part in parts:
            device = part.weight.device
            needed[device] = needed.get(device, 0) + part.weight.numel()
        self._used = dict.fromkeys(needed, 0)
        for device, numbers in needed.items():
            if device not in self._blocks or self._blocks[device].numel() < numbers:
                self._blocks.pop(device, None)
                self._blocks[device] = torch.empty(numbers, dtype=torch.float32, device=device)

    def like(self, parts: Parts) -> Tensor:
        """An fp32 tensor of the shape and strides of ``parts``; its numbers are not set."""
        weight, numbers = parts.weight, parts.weight.numel()
        if not is_dense(weight):
            return parts.empty()
        begin = self._used[weight.device]
        self._used[weight.device] = begin + numbers
        return self._blocks[weight.device].as_strided(weight.shape, weight.stride(), begin)


#: for weights, and for their gradients
Memories = tuple[Memory, Memory]
