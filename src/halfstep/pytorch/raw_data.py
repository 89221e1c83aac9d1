"""PyTorch's own ``tensor.data``, the slot in C, for code that runs while the attribute is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: typed Any, as PyTorch's stubs lack it
_SLOT: Any = torch._C.TensorBase.data

#: ``tensor.data``
raw_data: Callable[[Tensor], Tensor] = _SLOT.__get__

#: ``tensor.data = data``; the dtype may be another one
set_raw_data: Callable[[Tensor, Tensor], None] = _SLOT.__set__
