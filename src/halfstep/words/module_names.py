"""The path of a module in a sentence."""

from __future__ import annotations


def shown(path: str, outside: str = "code outside of modules") -> str:
    """The path as it is; ``module 2`` where it is only numbers, as in an ``nn.Sequential``; ``outside`` if empty."""
    if not path:
        return outside
    return f"module {path}" if path.replace(".", "").isdigit() else path
