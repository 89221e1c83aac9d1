"""Which frameworks are installed, and which versions are taken over."""

from __future__ import annotations

import importlib.metadata

import pytest

from halfstep.errors import Unsupported
from halfstep.machine.frameworks import FRAMEWORKS


def test_a_framework_is_found_under_any_of_its_names_and_unimported(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tensorflow-cpu":
            return "2.21.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert FRAMEWORKS["tensorflow"].version == "2.21.0"
    assert FRAMEWORKS["keras"].version is None


def test_a_version_that_is_too_old_gets_one_sentence() -> None:
    with pytest.raises(Unsupported) as error:
        FRAMEWORKS["keras"].check("2.15.0")
    assert str(error.value) == (
        "keras 2.15.0 is too old for halfstep, which takes over keras 3.15 or later; run `pip install 'keras>=3.15'`."
    )
    FRAMEWORKS["keras"].check("3.15.0rc1")
    FRAMEWORKS["torch"].check("2.11.0+cpu")
