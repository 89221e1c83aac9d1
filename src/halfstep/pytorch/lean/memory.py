"""Memory for the fp32 numbers of a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from halfstep.pytorch.lean.split import Parts, is_dense


class Memory:
    """Memory for one group of tensors after the other.

    New memory for each group would come to lie between what the optimizer makes to keep, and leave gaps there.
    """

    def __init__(self) -> None:
        self._blocks: dict[torch.device, Tensor] = {}
        self._used: dict[torch.device, int] = {}

    def start(self, parts: Iterable[Parts]) -> None:
        """The next group is to be of these; what was given out before is not used any more."""
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
        """fp32 of the shape and strides of ``parts``, whose numbers are not set."""
        weight, numbers = parts.weight, parts.weight.numel()
        if not is_dense(weight):
            return parts.empty()
        begin = self._used[weight.device]
        self._used[weight.device] = begin + numbers
        return self._blocks[weight.device].as_strided(weight.shape, weight.stride(), begin)


#: for weights, and for their gradients
Memories = tuple[Memory, Memory]
