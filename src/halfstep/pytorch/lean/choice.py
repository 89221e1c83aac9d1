"""Which parameters ``bf16-lean`` splits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from halfstep.pytorch.weights.widening import is_alone


def has_rows(parameter: Tensor) -> bool:
    """Whether a parameter has two dimensions or more, the first of them larger than 1.

    Parameters of one dimension are biases and the weights of norms; those whose first dimension is 1 are added to every
    example. They stay fp32, as in autocast.
    """
    return parameter.ndim >= 2 and parameter.shape[0] > 1


def can_be_held(parameter: Tensor, shared: bool = False) -> bool:
    """Whether a parameter is to be bf16 with a remainder: trained, fp32, plain, alone in its memory, with rows.

    Args:
        shared: whether it may be, although other tensors share its memory.
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
        and has_rows(parameter)
        and (shared or is_alone(parameter))
    )
