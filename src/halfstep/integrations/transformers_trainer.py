"""Transformers' ``Trainer``: what it logs goes into the record, under its names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached

#: measured by halfstep itself, or no figure of the training
_LEFT_OUT = ("epoch", "total_flos")
_TIMES = ("_runtime", "_per_second")


def install(trainer: ModuleType, attached: Attached) -> None:
    """Take over ``transformers.trainer``, just imported."""
    patches = attached.takeover.patches
    patches.wrap(trainer.Trainer, "__init__", lambda original: _making(original, attached))
    callbacks = import_module("transformers.trainer_callback").CallbackHandler
    # Not Trainer.log, which subclasses replace.
    patches.wrap(callbacks, "on_log", lambda original: _logging(original, attached))


def _making(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def __init__(trainer: Any, *args: Any, **kwargs: Any) -> None:
        original(trainer, *args, **kwargs)
        attached.driven_by("transformers")

    return __init__


def _logging(original: Callable[..., Any], attached: Attached) -> Callable[..., Any]:
    def on_log(handler: Any, args: Any, state: Any, control: Any, logs: dict[str, float]) -> Any:
        figures = {k: v for k, v in logs.items() if k not in _LEFT_OUT and not k.endswith(_TIMES)}
        attached.logged(figures)
        return original(handler, args, state, control, logs)

    return on_log
