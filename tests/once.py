"""What takes long to make is made once for all of pytest's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` as ``make(folder)`` filled it in the first worker that asked; the others wait for it.

    Raises:
        AssertionError: in every worker that asks, where ``make`` failed; it is not tried again.
    """
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    made, failed = folder / "made", folder / "failed"
    with FileLock(folder / "lock"):
        if not made.exists() and not failed.exists():
            try:
                make(folder)
            except Exception as error:
                failed.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
                raise
            made.touch()
    assert made.exists(), failed.read_text(encoding="utf-8")
    return folder
