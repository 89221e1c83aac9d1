"""What is replaced in a framework, and put back."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from halfstep.takeover.patches import Patches


@pytest.mark.parametrize("undone", [False, True])
def test_what_waits_for_an_import_waits_no_longer_when_it_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    name = f"waited_for_{undone}"
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[ModuleType] = []
    patches = Patches()
    patches.when_imported(name, seen.append)
    if undone:
        patches.undo()
    module = importlib.import_module(name)
    assert seen == ([] if undone else [module])
    patches.undo()
    del sys.modules[name]
