"""``bf16-lean`` under DistributedDataParallel: every process holds bf16 weights with remainders.

The weights are split before DDP gets them, so that DDP reduces bf16 gradients. The weights that DDP sends to all
processes at its start are fp32. Gradients that were added up without communication (``no_sync``) are fp32, and rounded
to bf16 once, when DDP reduces them. From then on every process makes the same steps.

DDP waits for the gradients with hooks on the parameters' AccumulateGrad nodes. PyTorch drops a parameter's node when
the dtype of its data changes, as it does around a step; a function in C++ changes the dtype and leaves the node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from halfstep.errors import HalfstepError, Unsupported
from halfstep.pytorch.lean.data_setter import SOURCE, data_setter
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.native.builder import prepare
from halfstep.pytorch.patches import Patches
from halfstep.takeover.identity import IdentitySet


class Replicas:
    """Splits the weights of models that DDP is given.

    Args:
        name: of the precision.
        split: splits the parameters of a module that are to be split.
        keep: called with parameters that stay fp32 from now on.

    Attributes:
        any_made: whether DDP holds parameters of bf16.
    """

    def __init__(
        self,
        name: str,
        masters: Masters,
        split: Callable[[nn.Module], None],
        keep: Callable[[Tensor], None],
        stop: Callable[[HalfstepError], NoReturn],
    ) -> None:
        self._name = name
        self._masters, self._split, self._keep, self._stop = masters, split, keep, stop
        self.any_made = False
        self._made: IdentitySet[nn.Module] = IdentitySet()

    def install(self, patches: Patches) -> None:
        """Wrap what makes replicas."""
        patches.wrap(DistributedDataParallel, "__init__", self._replicating)
        patches.wrap(DataParallel, "__init__", self._refusing)

    def _replicating(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def __init__(replica: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            set_data = data_setter()
            if set_data is None:
                self._stop(
                    Unsupported(
                        f"Precision {self._name} needs a C++ compiler where the program uses DistributedDataParallel, "
                        f"but {prepare([SOURCE]) or 'what it made cannot be loaded'}; use --precision bf16."
                    )
                )
            self._split(module)
            original(replica, module, *args, **kwargs)
            self._made.add(replica)
            self._masters.flush()  # DDP has written the weights of the first process into those of all
            for parameter in module.parameters():
                master = self._masters.of(parameter)
                if master is None:
                    self._keep(parameter)  # if it were split later, DDP's hook would be lost
                else:
                    master.set_data = set_data
                    parameter.register_post_accumulate_grad_hook(_narrowing(replica))
                    self.any_made = True

        return __init__

    def check(self, module: nn.Module) -> None:
        """Refuse a module that holds an earlier replica: its parameters cannot be split without losing DDP's hooks."""
        for part in module.modules():
            if isinstance(part, DistributedDataParallel) and part not in self._made:
                self._stop(
                    Unsupported(
                        f"Precision {self._name} was put into force after the program had given "
                        "DistributedDataParallel its model; put it into force before."
                    )
                )

    def _refusing(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(replica: nn.Module, *args: Any, **kwargs: Any) -> None:
            self._stop(
                Unsupported(
                    f"Precision {self._name} trains a model in one thread, but the program uses DataParallel; use "
                    "DistributedDataParallel or --precision bf16."
                )
            )

        return __init__


def _narrowing(replica: Any) -> Callable[[Tensor], None]:
    """A hook that rounds an fp32 gradient just before DDP reduces it: the memory that DDP reduces it in is bf16."""

    def narrow(parameter: Tensor) -> None:
        gradient = parameter.grad
        reduces = replica.require_backward_grad_sync or replica.require_forward_param_sync
        if reduces and gradient is not None and gradient.dtype is torch.float32:
            parameter.grad = gradient.to(torch.bfloat16)

    return narrow
