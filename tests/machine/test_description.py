"""What this machine can do, asked of the first framework that works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from halfstep.errors import UsageError
from halfstep.machine.description import describe_machine
from halfstep.machine.frameworks import Framework
from halfstep.machine.support import Machine


def test_without_torch_another_framework_is_asked_and_without_any_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 0, '{"devices": []}', "")

    here = {"jax": "0.10.2"}
    monkeypatch.setattr(Framework, "version", property(lambda framework: here.get(framework.module)))
    monkeypatch.setattr(subprocess, "run", run)
    assert describe_machine() == Machine()
    assert asked == ["halfstep.keras.capabilities"]
    here.clear()
    with pytest.raises(UsageError) as error:
        describe_machine()
    assert str(error.value) == (
        f"No framework can be used by {sys.executable} (none of torch, tensorflow and jax is installed); "
        "install torch 2.11 or later, or keras with a backend."
    )
