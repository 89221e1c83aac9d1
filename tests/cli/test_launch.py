"""``--launch``: every trial through torchrun, two processes on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import halfstep as package
from halfstep.record import read
from halfstep.trials.hints import NO_RANK

from .running import PROGRAMS, kill_in_training, runs

pytestmark = pytest.mark.slow

DDP = str(PROGRAMS / "ddp.py")
TORCHRUN = f"{Path(sys.executable).parent / 'torchrun'} --standalone --nproc-per-node 2"


@pytest.fixture(scope="module")
def launched(compared) -> dict[str, Any]:
    return compared("--launch", TORCHRUN, "--precisions", "fp32,fp16:init_scale=1024", DDP, "overflow")


@pytest.mark.long
def test_rank_0_reports_and_memory_is_the_sum(launched: dict[str, Any]) -> None:
    fp32, _ = launched["trials"]
    assert fp32["steps"] == 10
    assert fp32["ranks"] == 2
    assert fp32["peak_memory_largest_rank_bytes"] <= fp32["peak_memory_bytes"]


@pytest.mark.long
def test_ranks_agree_on_a_skip_although_one_overflowed(launched: dict[str, Any]) -> None:
    fp32, fp16 = launched["trials"]
    assert (fp16["status"], fp16["skipped_steps"]) == ("ok", 1)
    record = launched["folder"] / "trials" / "fp16_init_scale=1024-seed0-repeat0.jsonl"
    skipped = [
        [s["step"] for s in read(p).steps if s["skipped"]]
        for p in sorted(record.parent.glob(record.name + "*"))
    ]
    assert skipped == [[5], [5]]
    assert fp32["status"] == "failed", (
        "fp32 steps as plain PyTorch does: the weights are not finite, ranks differ"
    )


@pytest.mark.long
def test_a_rank_that_dies_ends_the_trial_and_is_named(compared) -> None:
    found = compared("--launch", TORCHRUN, "--precisions", "fp32", "--time-limit", "90", DDP, "die")
    (trial,) = found["trials"]
    assert trial["status"] == "failed"
    assert "rank 1" in trial["reason"]
    assert "5 steps" in trial["reason"]


@pytest.mark.long
def test_no_rank_outlives_a_comparison_that_is_killed(tmp_path: Path) -> None:
    record = tmp_path / "o" / "trials" / "fp32-seed0-repeat0.jsonl"
    arguments = ("--launch", TORCHRUN, "--precisions", "fp32", "--out", "o", DDP, "hang")
    kill_in_training(record, 5, *arguments, cwd=tmp_path)
    (trial,) = package.load(tmp_path / "o").trials
    assert (trial["status"], trial["steps"]) == ("interrupted", 5)
    assert not runs(read(record.with_name(f"{record.name}.rank1")).start["pid"])


#: launchers beside torchrun, each of two processes
OTHERS = {
    "torch.distributed.run": (
        f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2",
        DDP,
    ),
    "as MPI": (
        f"{sys.executable} {PROGRAMS / 'launcher.py'} 2 {sys.executable}",
        str(PROGRAMS / "ddp_by_mpi.py"),
    ),
    "fabric run": (
        f"{Path(sys.executable).parent / 'fabric'} run --accelerator cpu --strategy ddp --devices 2",
        str(PROGRAMS / "frameworks" / "fabric_ddp.py"),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("launcher", OTHERS)
def test_every_launchers_ranks_have_records_of_their_own(compared, launcher: str) -> None:
    if launcher == "fabric run":
        pytest.importorskip("lightning")
    launch, program = OTHERS[launcher]
    found = compared("--launch", launch, "--precisions", "bf16", "--time-limit", "240", program)
    (trial,) = found["trials"]
    assert (trial["status"], trial["ranks"], trial["steps"]) == ("ok", 2, 10), trial["reason"]
    records = sorted((found["folder"] / "trials").glob("*.jsonl*"))
    assert [read(path).start["rank"] for path in records] == [0, 1]
    assert [len(read(path).steps) for path in records] == [10, 10]


@pytest.mark.long
def test_a_launcher_that_gives_no_rank_is_told_from_the_programs_own_fault(compared) -> None:
    """So does `accelerate launch --cpu --num_processes 2`, without MPI."""
    pytest.importorskip("accelerate")
    launch = f"{sys.executable} -m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1"
    (trial,) = compared("--launch", launch, "--precisions", "fp32", DDP)["trials"]
    assert trial["status"] == "failed"
    assert trial["reason"].endswith(NO_RANK)
    assert "environment variable RANK expected, but not set; no launcher told" in trial["reason"]
