"""Transformers: ``fp16=``, ``bf16=`` and their kin yield to the recipe; what ``Trainer`` logs goes into the record.

``TrainingArguments`` are put back before they are validated: whether the hardware can do what was asked is the recipe's
question. Figures have Transformers' names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached

#: field -> its value where nothing is asked for
FLAGS = {"fp16": False, "bf16": False, "fp16_full_eval": False, "bf16_full_eval": False, "tf32": None}

#: measured by halfstep itself, or no figure of the training
_LEFT_OUT = ("epoch", "total_flos")
_TIMES = ("_runtime", "_per_second")


def install(module: ModuleType, attached: Attached) -> None:
    """Take over ``transformers.training_args`` or ``transformers.trainer``, just imported."""
    wrap = attached.takeover.patches.wrap
    if module.__name__.endswith("training_args"):
        attached.require("transformers", sys.modules["transformers"].__version__)
        wrap(module.TrainingArguments, "__post_init__", lambda original: _validating(original, attached))
        return
    wrap(module.Trainer, "__init__", lambda original: _making(original, attached))
    callbacks = import_module("transformers.trainer_callback").CallbackHandler
    # Not Trainer.log, which subclasses replace.
    wrap(callbacks, "on_log", lambda original: _logging(original, attached))


def _validating(original: Callable[[Any], None], attached: Attached) -> Callable[[Any], None]:
    def __post_init__(arguments: Any) -> None:
        for name, nothing in FLAGS.items():
            value = getattr(arguments, name, nothing)
            if value and name != "tf32":
                # Evaluation alone is no training step: nothing is asked of that.
                attached.asks_for(f"TrainingArguments({name}={value!r})", name)
            if value and name == "fp16":
                attached.scaler_expected = True
            if not attached.as_is and hasattr(arguments, name):
                setattr(arguments, name, nothing)
        original(arguments)

    return __post_init__


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
