"""A precision plugin for Lightning: ``Trainer(plugins=[halfstep.lightning.MixedPrecision("fp16")])``.

Made when it is first used, for the Lightning that the program has imported: ``lightning`` or ``pytorch_lightning``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    MixedPrecision: Any

__all__ = ["MixedPrecision"]


def __getattr__(name: str) -> Any:
    if name != "MixedPrecision":
        raise AttributeError(f"module 'halfstep.lightning' has no attribute {name!r}")
    from halfstep.integrations.lightning_plugin import plugin_for

    only_the_old_name = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    return plugin_for("pytorch_lightning" if only_the_old_name else "lightning.pytorch")
