"""The examples, as a user runs them: they learn, and go on from their checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from halfstep.record import read

from ..cli.running import halfstep, python
from .conftest import environment, skip_without

TF_LOOP = str(Path(__file__).resolve().parents[2] / "examples" / "tf_loop.py")


@pytest.mark.long
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


@pytest.mark.long
def test_the_keras_example_learns_and_goes_on_in_another_precision(example: str, tmp_path: Path) -> None:
    skip_without("keras", "tensorflow")
    saved, record = tmp_path / "saved.keras", tmp_path / "record.jsonl"
    arguments = (example, "--width", "4", "--epochs", "4", "--checkpoint", str(saved))
    first = halfstep("run", "--precision", "fp32", *arguments, env=environment("tensorflow"))
    then = halfstep(
        "run", "--precision", "bf16", "--record", str(record), *arguments, env=environment("tensorflow")
    )
    assert then.stdout.startswith(f"goes on from {saved}\n"), then.stderr
    assert "Skipping variable loading" not in then.stderr
    for done in (first, then):
        (accuracy,) = re.findall(r"accuracy ([\d.]+)%$", done.stdout.splitlines()[-1])
        assert float(accuracy) > 30, "ten classes, four short epochs"
    assert set(read(record).sample["matmul_flops"]) == {"bf16"}
