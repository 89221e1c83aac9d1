"""Whether float32 products may use TF32 units: off for every recipe but ``tf32``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from halfstep.pytorch.patches import Patches


def set_tf32(allowed: bool, patches: Patches) -> None:
    """Allow or forbid TF32 in cuBLAS and cuDNN, and keep the script from changing it.

    ``torch.set_float32_matmul_precision`` also governs oneDNN on CPUs. PyTorch's defaults: off in cuBLAS, on in cuDNN.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed

    def ours_wins(original: Callable[[str], None]) -> Callable[[str], None]:
        def set_float32_matmul_precision(precision: str) -> None:
            original("high" if allowed else "highest")

        return set_float32_matmul_precision

    patches.wrap(torch, "set_float32_matmul_precision", ours_wins)
