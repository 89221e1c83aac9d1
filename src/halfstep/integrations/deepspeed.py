"""DeepSpeed: its engine casts, scales and steps by its configuration, which yields to no recipe: refused.

An import alone is none of training, and libraries import what is installed: the engine is refused, when it is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from halfstep.integrations.attached import Attached

#: sections of the configuration -> the format that they ask for; torch_autocast names its own
_SECTIONS = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "torch_autocast": ""}


def install(deepspeed: ModuleType, attached: Attached) -> None:
    """Take over ``deepspeed``, just imported."""
    attached.takeover.patches.wrap(
        deepspeed, "initialize", lambda original: _initializing(original, attached)
    )


def _initializing(original: Callable[..., Any], attached: Attached) -> Callable[..., Any]:
    def initialize(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("args")
        config = (
            kwargs.get("config") or kwargs.get("config_params") or getattr(given, "deepspeed_config", None)
        )
        for what, precision in _asked(_read(config)):
            attached.asks_for(what, precision)
        if not attached.as_is:
            attached.refuse(
                f"DeepSpeed's engine was asked for under {attached.takeover.recipe}, but it casts, scales and steps by "
                "its own configuration, which halfstep does not take over; train with DDP or fully_shard (FSDP2), or "
                "run with --precision as-is."
            )
        return original(*args, **kwargs)

    return initialize


def _asked(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the configuration asks for, in words, and the format."""
    on = {
        name: section
        for name in _SECTIONS
        if isinstance(section := config.get(name), Mapping) and section.get("enabled")
    }
    return [
        (f"DeepSpeed's {name}", _SECTIONS[name] or str(section.get("dtype", "bf16")))
        for name, section in on.items()
    ]


def _read(config: Any) -> Mapping[str, Any]:
    """A configuration, which may be a file of JSON; an empty one where it can't be read: DeepSpeed says why."""
    if isinstance(config, Mapping):
        return config
    try:
        found = json.loads(Path(config).read_text())
    except (TypeError, OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
