"""``keep=``: modules, by name pattern, that compute in fp32 while the rest uses 16 bits.

A name is a module's path inside the outermost module that is called, as ``named_modules`` gives it; the name of the
outermost module is empty. Patterns are those of ``fnmatch``: ``*.norm``, ``blocks.0.*``, ``lm_head``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from halfstep.errors import UsageError
from halfstep.pytorch.autocast.state import Switched
from halfstep.pytorch.devices import device_types
from halfstep.pytorch.dtypes import KEPT, SIXTEEN_BIT
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.true_16bit import cast
from halfstep.takeover.identity import IdentitySet

#: prefixes that torch.compile, DataParallel and DistributedDataParallel put before the names of a model's parts
WRAPPERS = re.compile(r"^((_orig_mod|module)(\.|$))+")


def forget(marked: Iterable[nn.Module]) -> None:
    """Take the marks off again."""
    for module in marked:
        del module.__dict__[KEPT]


class Keep:
    """Marks the modules that match and runs their ``forward`` outside autocast, on fp32 inputs.

    Args:
        back_to: the dtype that their results are cast to; None where autocast casts them.
    """

    def __init__(
        self, patterns: tuple[str, ...], patches: Patches, back_to: torch.dtype | None = None
    ) -> None:
        self._patterns = patterns
        self._patches = patches
        self._back_to = back_to
        self._seen: IdentitySet[nn.Module] = IdentitySet()
        self._wrapped: set[type] = set()
        self._missing = set(patterns)
        self._names: list[str] = []

    def install(self) -> None:
        """Look at each model before it is called: one may be made at any time."""
        if self._patterns:
            # A global module hook would not do: torch.compile warns of it, and traces it.
            self._patches.wrap(nn.Module, "__call__", self._call)

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                self.look(module)
            return original(module, *args, **kwargs)

        return __call__

    def look(self, module: nn.Module) -> None:
        """Mark the parts of ``module`` that match, once."""
        if module in self._seen or not self._patterns:
            return
        self._seen.update(module.modules())
        for path, part in module.named_modules():
            name = WRAPPERS.sub("", path)
            self._names.append(name)
            matching = {p for p in self._patterns if name and fnmatchcase(name, p)}
            self._missing -= matching
            if matching:
                self._keep(part)

    def stepped(self) -> None:
        """The first step has been made, every model has been called: a pattern that matched nothing is a mistake.

        Raises:
            UsageError: naming the pattern and some of the modules that there are.
        """
        if self._missing:
            names = [name for name in self._names if name]
            raise UsageError(
                f"keep={','.join(sorted(self._missing))} matches no module of this program; "
                f"its modules are {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
            )

    def _keep(self, module: nn.Module) -> None:
        # A mark, not a wrapped instance attribute: the module stays picklable and can be copied.
        for part in module.modules():
            part.__dict__[KEPT] = True
            self._seen.add(part)
        cls = type(module)
        if cls not in self._wrapped:
            self._wrapped.add(cls)
            self._patches.wrap(cls, "forward", self._in_fp32)

    def _in_fp32(self, original: Callable[..., Any]) -> Callable[..., Any]:
        back_to, device = self._back_to, device_types()[-1]

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not module.__dict__.get(KEPT):
                return original(module, *args, **kwargs)
            args, kwargs = cast(args, torch.float32, SIXTEEN_BIT), cast(kwargs, torch.float32, SIXTEEN_BIT)
            if back_to is None or torch.compiler.is_compiling():
                off: Any = torch.autocast(
                    device, enabled=False
                )  # a region that is off inside a model is off on all devices
            else:  # in a model of 16-bit weights a torch.autocast, even one of halfstep's, would change nothing
                off = Switched(device_types(), enabled=False)
            with off:
                result = original(module, *args, **kwargs)
            return result if back_to is None else cast(result, back_to)

        return forward
