"""as-is and fp32 print what plain python prints, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfstep.record import read

from ..cli.running import PROGRAMS, halfstep, python
from .conftest import BACKENDS, environment, skip_without

PLAIN = str(PROGRAMS / "keras" / "plain.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_fp32_is_what_python_does(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("keras", backend)
    for name, value in environment(backend).items():
        monkeypatch.setenv(name, value)
    record = tmp_path / "record.jsonl"
    ours = halfstep("run", "--precision", "fp32", "--record", str(record), PLAIN)
    plain = python(PLAIN)
    assert plain.returncode == 0, plain.stderr
    assert ours.stdout == plain.stdout
    found = read(record)
    assert found.end["status"] == "ok"
    assert set(found.sample["matmul_flops"]) == {"fp32"}


@pytest.mark.slow
def test_as_is_leaves_the_scripts_own_policy_and_notes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("keras", "tensorflow")
    for name, value in environment("tensorflow").items():
        monkeypatch.setenv(name, value)
    record = tmp_path / "record.jsonl"
    ours = halfstep("run", "--precision", "as-is", "--record", str(record), PLAIN, "mixed")
    plain = python(PLAIN, "mixed")
    assert "mixed_bfloat16" in plain.stdout
    assert ours.stdout == plain.stdout
    assert read(record).own_amp == ["set_dtype_policy('mixed_bfloat16')"]
    assert set(read(record).sample["matmul_flops"]) == {"bf16", "fp32"}
