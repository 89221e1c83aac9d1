"""Comparisons that many tests look at, run once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .running import halfstep


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """``compared("--precisions", "fp32", program, …)`` runs ``halfstep compare`` and returns its JSON."""

    def compare(*arguments: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("comparison")
        done = halfstep(
            "compare", "--out", str(folder / "out"), "--json", str(folder / "c.json"), *arguments, cwd=folder
        )
        assert (folder / "c.json").read_text(), done.stderr
        found: dict[str, Any] = json.loads((folder / "c.json").read_text())
        return found | {"done": done, "folder": folder / "out"}

    return compare
