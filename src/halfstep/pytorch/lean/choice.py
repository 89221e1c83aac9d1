"""Which parameters ``bf16-lean`` splits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from halfstep.pytorch.weights.widening import is_alone


def can_be_held(parameter: Tensor, shared: bool = False) -> bool:
    """Whether a parameter is to be bf16 with a remainder; ``shared``: although others look at its memory.

    It is trained, fp32, a plain tensor alone in its memory, and of two dimensions or more, the first of them larger
    than 1: those of one are biases and the weights of norms, and those whose first dimension is 1 are added to every
    example. They stay fp32, as in autocast.
    """
    if type(parameter) is not nn.Parameter or is_lazy(parameter):
        return False
    made_of_others: bool = is_traceable_wrapper_subclass(parameter)
    return (
        parameter.requires_grad
        and parameter.is_leaf
        and not made_of_others
        and parameter.dtype is torch.float32
        and parameter.layout is torch.strided
        and not parameter.is_meta
        and parameter.ndim >= 2
        and parameter.shape[0] > 1
        and (shared or is_alone(parameter))
    )
