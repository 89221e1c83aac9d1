"""Wrapping the constructor of a layer, whose signature Keras reads to tell what ``get_config`` has to give."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from halfstep.takeover.patches import Patches

Method = Callable[..., Any]


def wrap_constructor(patches: Patches, cls: type, make: Callable[[Method], Method]) -> None:
    """Replace ``cls.__init__`` by ``make(it)``, also to those who read signatures without following wrappers."""
    signature = inspect.signature(vars(cls)["__init__"])
    patches.wrap(cls, "__init__", make)
    vars(cls)["__init__"].__signature__ = signature
