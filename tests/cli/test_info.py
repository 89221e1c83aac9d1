from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest
import torch

from halfstep.errors import Unsupported, UsageError
from halfstep.machine.description import describe_machine
from halfstep.machine.frameworks import FRAMEWORKS, Framework
from halfstep.machine.support import Machine

from .running import halfstep


def test_what_is_here_and_what_is_not() -> None:
    found = json.loads(halfstep("info", "--json").stdout)
    assert found["frameworks"]["torch"] == torch.__version__
    assert found["taken_over"]["torch"] == "taken over"
    for name, version in found["frameworks"].items():
        assert (found["taken_over"][name] == "not installed") == (version is None)
    (cpu, *_) = found["machine"]["devices"]
    assert cpu["precisions"]["fp32"]["kind"] == "native"
    assert cpu["precisions"]["tf32"] | {"slower": []} == {
        "kind": "impossible",
        "reason": "a CPU has no TF32 units",
        "slower": [],
    }
    for meter in found["meters"].values():
        assert meter.keys() in ({"absent"}, {"unit", "how"})
    text = " ".join(halfstep("info").stdout.split())
    assert "Emulated, with --emulate, on cpu tf32, fp8, " in text
    assert "bf16-lean as bf16, in PyTorch: weights in bf16 and a remainder, together fp32 fp16 " in text
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        reason = cpu["precisions"][precision]["reason"]
        assert f"{precision} " in text
        assert reason.split(" (")[0] in text


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
