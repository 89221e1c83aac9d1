"""DeepSpeed's engine on its CPU accelerator, against PyTorch's AMP loop by hand; ``make test-deepspeed`` runs these."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfstep.record import Record, read

from .conftest import PROGRAMS, ROUNDOFF

PROGRAM = str(PROGRAMS / "deepspeed_zero.py")
STAGES = ("0", "1", "2", "3")

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed has an environment of its own: make test-deepspeed", allow_module_level=True)

#: bytes of the model's weights in fp32
WEIGHTS = 4 * (16 * 32 + 32 + 32 + 32 + 32 * 32 + 32 + 32 + 1)


@dataclass(frozen=True)
class Ran:
    """What a run printed, and its records, one a rank."""

    output: str
    records: tuple[Record, ...]

    @property
    def losses(self) -> list[float]:
        return [float(loss) for loss in re.findall(r"loss (\S+)", self.output)]

    @property
    def norms(self) -> list[float]:
        return [float(norm) for norm in re.findall(r"norm (\S+)", self.output)]

    @property
    def weights(self) -> list[float]:
        """The sum of squares of the weights, on each rank."""
        return [float(weights) for weights in re.findall(r"rank \d weights (\S+)", self.output)]


def run(*command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """``ran("fp16", "2", "no", "bad")``: under halfstep on two ranks, or by hand where the recipe is None."""

    @functools.cache
    def run_once(recipe: str | None, *program: str) -> Ran:
        folder = tmp_path_factory.mktemp("deepspeed")
        if recipe is None:
            done = run(PROGRAM, "plain", *program, folder=folder)
        else:
            torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
            halfstep = ("-m", "halfstep", "run", "--precision", recipe, "--record", "r")
            done = run(*torchrun, *halfstep, PROGRAM, *program, folder=folder)
        assert done.returncode == 0, done.stderr
        return Ran(done.stdout, tuple(read(path) for path in sorted(folder.glob("r*"))))

    return run_once


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_each_stage_trains_as_the_loop_by_hand(ran: Callable[..., Ran], recipe: str, stage: str) -> None:
    """Two ranks, two passes a step, clipping, two parameter groups.

    Losses are means of squares of size 1 after three products: 2 x 3 x 3 u is a bound for one forward pass, and each
    step may move the weights by as much again. In fp32 sums may be made in another order: 100 u.
    """
    by_hand = ran(None, "no" if recipe == "fp32" else recipe, "accumulate")
    found = ran(recipe, stage, "no", "accumulate")
    unit = 100 * 2.0**-24 if recipe == "fp32" else 18 * ROUNDOFF[recipe]
    for step, (loss, exact) in enumerate(zip(found.losses, by_hand.losses, strict=True)):
        assert abs(loss - exact) <= unit * (1 + step), (step, loss, exact)
    for step, (norm, exact) in enumerate(zip(found.norms, by_hand.norms, strict=True)):
        assert stage == "0" or math.isclose(norm, exact, rel_tol=unit * (1 + step)), (step, norm, exact)
    assert found.weights[0] == found.weights[1]
    assert math.isclose(found.weights[0], by_hand.weights[0], rel_tol=unit)
    for record in found.records:
        assert [step["skipped"] for step in record.steps] == [False] * 8
        assert record.sample["matmul_flops"].keys() == {recipe}
        assert record.stored.weights == {"fp32": WEIGHTS}
        assert record.takeover["framework"] == "deepspeed"
    rank0 = [step["loss"] for step in found.records[0].steps]
    assert all(math.isclose(*pair, rel_tol=1e-6) for pair in zip(rank0, found.losses, strict=True))


@pytest.mark.parametrize("program", [(stage, "no") for stage in STAGES] + [("2", "bf16", "no_norm")])
def test_a_step_that_one_rank_cannot_make_is_skipped_by_both(
    ran: Callable[..., Ran], program: tuple[str, ...]
) -> None:
    found = ran("fp16", *program, "bad")
    for rank, record in enumerate(found.records):
        assert [step["step"] for step in record.steps if step["skipped"]] == [5]
        assert f"rank {rank} made 8 skipped 1" in found.output
    assert found.weights[0] == found.weights[1]
    assert math.isfinite(found.losses[-1])
    if "no_norm" not in program:
        assert math.isclose(found.weights[0], ran(None, "fp16", "bad").weights[0], rel_tol=1e-3)


@pytest.mark.parametrize(
    "program",
    [("3", "bf16", "init"), ("1", "fp16", "narrow"), ("2", "no", "offload"), ("3", "no", "offload")],
)
def test_what_the_program_asks_for_yields(ran: Callable[..., Ran], program: tuple[str, ...]) -> None:
    """16-bit weights, made so or by ``zero.Init``, are fp32; what is offloaded to the CPU is followed."""
    for record in ran("fp16", *program).records:
        assert record.sample["matmul_flops"].keys() == {"fp16"}
        assert record.stored.weights.keys() == record.stored.optimizer.keys() == {"fp32"}
        assert record.end["steps"] == 8
        own = {"bf16": ["DeepSpeed's bf16"], "fp16": ["DeepSpeed's fp16", "bf16 weights"], "no": []}
        assert sorted(record.own_amp) == own[program[1]]


def test_as_is_is_deepspeeds_own(ran: Callable[..., Ran]) -> None:
    (record, _) = ran("as-is", "2", "bf16").records
    assert record.own_amp == ["DeepSpeed's bf16"]
    assert record.stored.weights == {"bf16": WEIGHTS // 2}
    assert record.sample["matmul_flops"].keys() == {"bf16"}
    assert record.end["steps"] == 8, "and not one for each parameter group"


@pytest.mark.parametrize(
    ("recipe", "program", "what"),
    [("bf16-true", ("1", "no"), "engine"), ("fp32", ("1", "no", "pipeline"), "pipeline parallelism")],
)
def test_what_a_recipe_cannot_follow_is_refused(
    tmp_path: Path, recipe: str, program: tuple[str, ...], what: str
) -> None:
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }
    halfstep = ("-m", "halfstep", "run", "--precision", recipe, "--record", "r")
    done = run(*halfstep, PROGRAM, *program, folder=tmp_path, **alone)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"halfstep: DeepSpeed's {what} was asked for under {recipe}, but halfstep follows its engine through fp32 "
        "weights and plain ZeRO of stages 0 to 3 alone; do without, or run with --precision as-is."
    )
    (record,) = (read(path) for path in tmp_path.glob("r*"))
    assert record.end["status"] == "unsupported"
