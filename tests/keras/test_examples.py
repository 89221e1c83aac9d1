"""The TensorFlow example, as a user runs it: it learns, and goes on from its checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..cli.running import python
from .conftest import environment, skip_without

TF_LOOP = str(Path(__file__).resolve().parents[2] / "examples" / "tf_loop.py")


@pytest.mark.slow
def test_the_tensorflow_loop_learns_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("keras", "tensorflow")
    for name, value in environment("tensorflow").items():
        monkeypatch.setenv(name, value)
    checkpoint = ("--checkpoint", str(tmp_path / "saved"))
    whole = python(TF_LOOP, "--epochs", "4").stdout.splitlines()
    python(TF_LOOP, "--epochs", "2", *checkpoint)
    resumed = python(TF_LOOP, "--epochs", "4", *checkpoint)
    assert resumed.stdout.splitlines() == [
        f"resumed from {tmp_path / 'saved'} after epoch 2",
        *whole[2:],
    ], resumed.stderr
    (accuracy,) = re.findall(r"accuracy ([\d.]+)%$", whole[-1])
    assert float(accuracy) > 90, "ten classes"
