"""Transformers' ``TrainingArguments``: ``fp16=``, ``bf16=`` and their kin yield to the recipe.

They are put back before they are validated: whether the hardware can do what was asked is the recipe's question.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached

#: field -> its value where nothing is asked for
FLAGS = {"fp16": False, "bf16": False, "fp16_full_eval": False, "bf16_full_eval": False, "tf32": None}


def install(module: ModuleType, attached: Attached) -> None:
    """Take over ``transformers.training_args``, just imported."""
    attached.require("transformers", sys.modules["transformers"].__version__)
    attached.takeover.patches.wrap(
        module.TrainingArguments, "__post_init__", lambda original: _validating(original, attached)
    )


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
