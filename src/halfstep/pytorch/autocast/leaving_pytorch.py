"""16-bit tensors that a recipe made leave PyTorch as float32 copies.

NumPy has no bf16 (``TypeError``), and its sums of fp16 overflow; DLPack gives tensors to another library; a pickle
takes them to a file or to another process, which expects fp32. What a model returns is fp32 already. This file is for
code inside a region, and for programs whose region lasts to the backward pass. A copy shares no memory with its tensor.

Queues and pools of ``multiprocessing`` pickle in a thread of their own, which is in no region. So the thread that puts
something into them widens it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import queues
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from halfstep.pytorch.autocast.results import to_fp32
from halfstep.pytorch.patches import Patches


def widen(dtype: torch.dtype, made_here: Callable[[], bool], patches: Patches) -> None:
    """Wrap the ways out of PyTorch.

    Args:
        dtype: the recipe's 16-bit dtype.
        made_here: tells whether 16-bit tensors that this thread holds may be the recipe's.
    """

    def widening(original: Callable[..., Any]) -> Callable[..., Any]:
        def leave(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if tensor.dtype is dtype and made_here():
                tensor = tensor.float()
            return original(tensor, *args, **kwargs)

        return leave

    def pickling(original: Callable[..., Any]) -> Callable[..., Any]:
        widened = widening(original)

        def reduce(tensor: Tensor, *args: Any) -> Any:
            # A copy stays in PyTorch, and a batch from a loader's worker has the dtypes that the script gave it.
            copies = sys._getframe(1).f_globals.get("__name__") == "copy"
            return (original if copies or get_worker_info() is not None else widened)(tensor, *args)

        return reduce

    def handing_over(original: Callable[..., Any]) -> Callable[..., Any]:
        def hand_over(receiver: Any, *args: Any, **kwargs: Any) -> Any:
            if made_here() and get_worker_info() is None:
                args, kwargs = to_fp32(args), to_fp32(kwargs)
            return original(receiver, *args, **kwargs)

        return hand_over

    for queue in (queues.Queue, queues.JoinableQueue):
        patches.wrap(queue, "put", handing_over)
    patches.when_imported("multiprocessing.pool", lambda m: patches.wrap(m.Pool, "apply_async", handing_over))
    patches.when_imported(
        "concurrent.futures.process", lambda m: patches.wrap(m.ProcessPoolExecutor, "submit", handing_over)
    )
    for name in ("numpy", "__dlpack__"):
        patches.wrap(Tensor, name, widening)
    patches.wrap(Tensor, "__reduce_ex__", pickling)
    reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    to_process = reducers[Tensor]
    reducers[Tensor] = pickling(to_process)
    patches.on_undo(lambda: reducers.__setitem__(Tensor, to_process))
