"""Processes that the program or a launcher starts, and Lightning's plugin where no recipe is in force."""

from __future__ import annotations

import json
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


@pytest.mark.long
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


@pytest.mark.long
def test_the_plugin_runs_fp16_on_a_cpu_with_lbfgs_too_and_yields_to_a_recipe(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    done = run(DDP, "out", "plugin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["torch.float16", "MixedPrecision"] * 2
    yielded = under("fp32", DDP, "out", "plugin", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in yielded] == ["torch.float32", "Precision"] * 2


@pytest.mark.long
def test_accelerate_launch_as_the_launcher_of_a_comparison(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = f"{sys.executable} -m accelerate.commands.launch {options} --num_cpu_threads_per_process 1"
    recipe, program = "fp16:init_scale=1024", str(PROGRAMS / "accelerate_ddp.py")
    done = run(
        *("-m", "halfstep", "compare", "--launch", launch, "--precisions", recipe, "--json", "c.json"),
        *("--out", "o", program),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads((tmp_path / "c.json").read_text())["trials"]
    assert (trial["status"], trial["steps"], trial["skipped_steps"], trial["ranks"]) == ("ok", 8, 1, 2)
    assert trial["matmul_share"] == {"fp16": 1.0}
    records = [read(path) for path in sorted((tmp_path / "o").rglob("*.jsonl*"))]
    assert [[s["step"] for s in record.steps if s["skipped"]] for record in records] == [[5], [5]]
    logs = [path.read_text() for path in (tmp_path / "o").rglob("*.log")]
    assert any("processes 2 agree True" in log for log in logs)
