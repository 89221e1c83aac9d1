"""Processes that the program starts itself, and Lightning's plugin where no recipe is in force."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halfstep.record import read

from .conftest import PROGRAMS

DDP = str(PROGRAMS / "lightning_ddp.py")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(cwd)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def under(recipe: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "halfstep", "run", "--precision", recipe, "--record", "r", *arguments, cwd=cwd)


@pytest.mark.slow
def test_lightnings_ddp_runs_both_processes_under_the_recipe(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    done = under("fp16", DDP, "out", "ddp", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.float16 ")
    records = [read(tmp_path / name) for name in ("r", "r.rank1")]
    assert [record.start["rank"] for record in records] == [0, 1]
    for record in records:
        assert len(record.steps) == 16, "2 epochs of 16 batches on 2 processes"
        assert record.sample["matmul_flops"].keys() == {"fp16"}
        assert record.end["status"] == "ok"


@pytest.mark.slow
def test_the_plugin_runs_fp16_on_a_cpu_with_lbfgs_too_and_yields_to_a_recipe(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    done = run(DDP, "out", "plugin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["torch.float16", "MixedPrecision"] * 2
    yielded = under("fp32", DDP, "out", "plugin", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in yielded] == ["torch.float32", "Precision"] * 2


def test_spawned_training_processes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import torch.multiprocessing as mp\n"
        "def train(rank): pass\n"
        "if __name__ == '__main__': mp.spawn(train, nprocs=2); print('trained')\n"
    )
    done = under("bf16", "s.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "halfstep: The program trains in processes of torch.multiprocessing.spawn, which halfstep cannot follow; start "
        "them with torchrun (Lightning: strategy='ddp', not 'ddp_spawn'), or run with --precision as-is.\n"
    )
    assert read(tmp_path / "r").end["status"] == "unsupported"
    assert under("as-is", "s.py", cwd=tmp_path).stdout == "trained\n"


def test_a_framework_that_is_too_old_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "__init__.py").write_text("import torch\n__version__ = '0.34.2'\n")
    (tmp_path / "s.py").write_text("import accelerate\nprint('trained')\n")
    done = under("bf16", "s.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "halfstep: accelerate 0.34.2 is too old for halfstep, which takes over accelerate 1.15 or later; "
        "run `pip install 'accelerate>=1.15'`.\n"
    )
