"""The format in which ranks exchange gradients, if the program's own communication hook changes it.

It is seen at the collectives that run while ``DistributedDataParallel`` calls the hook; PyTorch's hooks in C++ are
known by their names. Collectives that a hook starts later, after an answer (the second half of PowerSGD), are not seen
here; :mod:`halfstep.pytorch.recording.products` measures what ranks sum in the sampled step.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches

#: collectives that communication hooks call; not every version of PyTorch has all of them
_COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single", "all_to_all_single",
    "reduce_scatter_tensor", "reduce_scatter_single",
)  # fmt: skip


class Communicated:
    """Looks at the tensors that communication hooks send.

    Args:
        tell: called with a sentence, once for each pair of formats.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._hook = threading.local()
        self._told: set[tuple[torch.dtype, torch.dtype]] = set()

    def install(self, patches: Patches) -> None:
        """Wrap what registers hooks, and collectives."""
        if torch.distributed.is_available():
            patches.wrap(torch.distributed, "_register_comm_hook", self._register)
            patches.wrap_each(torch.distributed, ("_register_builtin_comm_hook",), self._register_builtin)
            patches.wrap_each(torch.distributed, _COLLECTIVES, self._collective)

    def _register(self, original: Callable[..., None]) -> Callable[..., None]:
        def register(reducer: Any, state: object, hook: Callable[..., Any]) -> None:
            @functools.wraps(hook)
            def watched(state: object, bucket: Any) -> Any:
                self._hook.gradients = bucket.buffer().dtype
                try:
                    return hook(state, bucket)
                finally:
                    self._hook.gradients = None

            original(reducer, state, watched)

        return register

    def _register_builtin(self, original: Callable[..., None]) -> Callable[..., None]:
        def register(reducer: Any, hook: Any) -> None:
            original(reducer, hook)
            if hook.name == "FP16_COMPRESS":
                self._differ(torch.float16, torch.float32)

        return register

    def _collective(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def collective(*args: Any, **kwargs: Any) -> Any:
            gradients = getattr(self._hook, "gradients", None)
            if gradients is not None and not torch.compiler.is_compiling():
                for tensor in tensors_of((*args, *kwargs.values())):
                    if tensor.is_floating_point() and tensor.dtype is not gradients:
                        self._differ(tensor.dtype, gradients)
            return original(*args, **kwargs)

        return collective

    def _differ(self, sent: torch.dtype, gradients: torch.dtype) -> None:
        if (sent, gradients) not in self._told:
            self._told.add((sent, gradients))
            self._tell(
                f"a communication hook of the program's own sends gradients from rank to rank in {format_name(sent)}; "
                f"they are {format_name(gradients)}"
            )
