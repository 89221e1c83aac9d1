"""Exported models (``torch.export``) assert before each cast that a tensor has the dtype it had at export.

In another precision it has another one: an assertion that names fp32 or a 16-bit format holds for all of them. Shapes,
devices and other dtypes are asserted as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, overload

_NAME, _KEY = "_assert_tensor_metadata", "BackendSelect"
_FORMATS = (torch.float32, *SIXTEEN_BIT)


def accept_formats() -> Overrides:
    """Accept every format of the recipes where an exported model asserts one of them."""
    overrides, operation = Overrides("formats asserted"), overload(_NAME)
    below = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

    def kernel(
        keyset: torch._C.DispatchKeySet,
        a: Tensor,
        size: Any = None,
        stride: Any = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if dtype in _FORMATS and a.dtype in _FORMATS:
            dtype = None
        with torch._C._ExcludeDispatchKeyGuard(below):
            operation(a, size, stride, dtype, **kwargs)

    overrides.put(_NAME, _KEY, kernel)
    return overrides
