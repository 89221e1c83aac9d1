"""torch.distributed.checkpoint keeps the loss scale, and old checkpoints load; FSDP1 is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.running import PROGRAMS, halfstep, python

PROGRAM = str(PROGRAMS / "distributed_checkpoint.py")
SAVED = "{'loss_scale': 256.0, 'finite_steps': 1, 'skipped_steps': 2}"
FRESH = "{'loss_scale': 65536.0, 'finite_steps': 1, 'skipped_steps': 0}"

pytestmark = pytest.mark.long


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_the_scale_survives_and_plain_python_loads_the_rest(tmp_path: Path, form: str) -> None:
    folder = str(tmp_path / "checkpoint")
    saved = halfstep("run", "--precision", "fp16:init_scale=1024", PROGRAM, "save", folder, form)
    state, _, moment = saved.stdout.strip().rpartition(" ")
    assert state == SAVED, saved.stderr
    assert "4 steps, 2 of them skipped" in saved.stderr, (
        "the step that PyTorch makes of a new optimizer is not the program's"
    )
    loaded = halfstep("run", "--precision", "fp16", PROGRAM, "load", folder, form)
    assert loaded.stdout.splitlines() == [FRESH, SAVED, moment], loaded.stderr
    assert python(PROGRAM, "load", folder, form).stdout.splitlines() == ["None", "None", moment]


def test_a_checkpoint_of_plain_python_leaves_the_scale_alone(tmp_path: Path) -> None:
    folder, form = str(tmp_path / "checkpoint"), "flat"
    assert python(PROGRAM, "save", folder, form).stdout.startswith("None ")
    assert halfstep("run", "--precision", "bf16", PROGRAM, "save", folder, form).stderr.endswith(
        ": 4 steps\n"
    )
    loaded = halfstep("run", "--precision", "fp16", PROGRAM, "load", folder, form)
    assert loaded.stdout.splitlines()[:2] == [FRESH, FRESH], loaded.stderr


@pytest.mark.long
def test_rank_0_hands_on_the_scale_and_fsdp1_is_refused() -> None:
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    ours = ["-m", "halfstep", "run", "--precision", "fp16:init_scale=1024", str(PROGRAMS / "fsdp1.py")]
    done = subprocess.run([*torchrun, *ours], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == ["{'loss_scale': 512.0, 'finite_steps': 1, 'skipped_steps': 1}"] * 2, (
        done.stderr
    )
    assert done.returncode != 0
    assert (
        "FullyShardedDataParallel (FSDP1) was asked for under fp16:init_scale=1024, but it puts gradients aside where a "
        "loss scale and a skipped step cannot follow; shard by torch.distributed.fsdp.fully_shard (FSDP2), or use bf16, "
        "which needs neither."
    ) in done.stderr
