"""Models that a tf.distribute strategy trains on several replicas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfstep.record import read

from ...cli.running import PROGRAMS, halfstep, python
from ..conftest import environment, skip_without

pytestmark = pytest.mark.slow

PROGRAM = str(PROGRAMS / "keras" / "mirrored.py")


def test_fp32_is_what_python_does_and_a_steps_loss_is_the_whole_batchs(tmp_path: Path) -> None:
    skip_without("keras", "tensorflow")
    record = tmp_path / "record.jsonl"
    ours = halfstep(
        "run", "--precision", "fp32", "--record", str(record), PROGRAM, env=environment("tensorflow")
    )
    plain = python(PROGRAM, env=environment("tensorflow"))
    assert plain.returncode == 0, plain.stderr
    assert ours.stdout == plain.stdout
    found = read(record)
    epoch = float.fromhex(plain.stdout.split()[0])
    assert np.mean(found.losses) == pytest.approx(epoch, rel=1e-6)
    assert found.sample["samples"] == 16


def test_a_loss_scale_over_replicas_is_refused_before_the_first_step() -> None:
    skip_without("keras", "tensorflow")
    done = halfstep("run", "--precision", "fp16", PROGRAM, env=environment("tensorflow"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "halfstep: A loss scale over 2 replicas of a tf.distribute strategy is not possible; use a precision without a "
        "loss scale, such as bf16."
    )
