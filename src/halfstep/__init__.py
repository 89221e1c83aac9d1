"""halfstep: run any training script in any numerical precision, unmodified; compare the precisions on it.

import halfstep; halfstep.enable("bf16")    # the first line of a script; or: halfstep run --precision bf16 script.py
halfstep.disable()                          # take it off again, between two steps
with halfstep.precision("fp16"): ...        # for some lines, or a function
halfstep.log(accuracy=0.98)                 # a figure of your own, for the comparison
halfstep.skipped_steps()                    # steps left out because gradients were not finite
halfstep.compare("train.py", seeds=5)       # run a program in several precisions, side by side
halfstep.diagnose("train.py")               # which layer under- or overflows, and the cure
halfstep.load("halfstep-out")               # a comparison that was written to a folder
halfstep.lightning.MixedPrecision("fp16")   # a precision plugin for Lightning's Trainer
halfstep.pytorch.GradScaler("cuda")         # loss scaling for an AMP loop of your own
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfstep.version import __version__ as __version__

if TYPE_CHECKING:
    from halfstep.cli.calls import compare as compare
    from halfstep.cli.calls import diagnose as diagnose
    from halfstep.errors import HalfstepError as HalfstepError
    from halfstep.report.loading import load as load
    from halfstep.session.api import disable as disable
    from halfstep.session.api import enable as enable
    from halfstep.session.api import log as log
    from halfstep.session.api import precision as precision
    from halfstep.session.api import skipped_steps as skipped_steps

__all__ = [
    "HalfstepError",
    "__version__",
    "compare",
    "diagnose",
    "disable",
    "enable",
    "load",
    "log",
    "precision",
    "skipped_steps",
]

_HOMES = {
    "disable": "halfstep.session.api",
    "enable": "halfstep.session.api",
    "log": "halfstep.session.api",
    "precision": "halfstep.session.api",
    "skipped_steps": "halfstep.session.api",
    "load": "halfstep.report.loading",
    "compare": "halfstep.cli.calls",
    "diagnose": "halfstep.cli.calls",
    "HalfstepError": "halfstep.errors",
    # %load_ext halfstep
    "load_ipython_extension": "halfstep.cli.magics",
    "unload_ipython_extension": "halfstep.cli.magics",
}

#: for those who write the training loop themselves; each needs its framework
_MODULES = ("lightning", "pytorch")


def __getattr__(name: str) -> object:
    # Loaded when first used: `import halfstep` costs next to nothing.
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"halfstep.{name}")
    raise AttributeError(f"module 'halfstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
