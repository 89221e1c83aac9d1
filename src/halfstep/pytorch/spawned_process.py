"""Runs in a process that a program spawned, and ends it at its first backward pass or optimizer step.

``NOTE`` is the file that tells the first process. This file is run by its path and may import nothing of halfstep: the
spawned process does not find a halfstep that was started from its own folder.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any, NoReturn

#: given by who runs this file
NOTE: str | None = globals().get("NOTE")

_IMPORTS = Path(__file__).parent.parent / "program" / "imports.py"


def look_out(note: str, torch: ModuleType) -> None:
    """``torch`` has been imported: end the process when it would train."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        Path(note).touch()
        raise SystemExit(2)

    import_module("torch.optim.optimizer").register_optimizer_step_pre_hook(refuse)
    torch.autograd.backward = refuse


if NOTE is not None:
    run_path(str(_IMPORTS))["on_import"]("torch", partial(look_out, NOTE))
