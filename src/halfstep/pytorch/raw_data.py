"""``tensor.data`` as PyTorch has it, where the attribute is replaced: the slot in C itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: of which PyTorch's types know nothing
_SLOT: Any = torch._C.TensorBase.data

#: ``tensor.data``
raw_data: Callable[[Tensor], Tensor] = _SLOT.__get__

#: ``tensor.data = data``; the dtype may be another one
set_raw_data: Callable[[Tensor, Tensor], None] = _SLOT.__set__
