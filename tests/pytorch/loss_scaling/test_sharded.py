"""Training spread over processes: true gradients, and one decision on every rank although one alone overflows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from halfstep.pytorch.loss_scaling.sharded import agreed

from ...cli.running import PROGRAMS

WAYS = ("ddp", "fsdp", "fsdp_with_policy", "tensor_parallel")
#: unit roundoff of the worst format that a gradient went through: bf16 where FSDP's own policy says so
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "policy": 2.0**-8}


@pytest.fixture(
    scope="module",
    params=["fp32:loss_scale=1024", "fp16:init_scale=1024"],
)
def spread(request: pytest.FixtureRequest) -> tuple[str, list[list[str]]]:
    """The precision, and the words that the program says of each way; torchrun is started once for all."""
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    ours = ["-m", "halfstep", "run", "--precision", request.param]
    done = subprocess.run(
        [*torchrun, *ours, str(PROGRAMS / "sharded.py")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return request.param.partition(":")[0], [line.split() for line in done.stdout.splitlines()]


@pytest.mark.long
def test_every_rank_skips_although_one_alone_overflowed(spread: tuple[str, list[list[str]]]) -> None:
    for way, line in zip(WAYS, spread[1], strict=True):
        assert line[:6] == [way, "agree", "untouched", "skipped", "[1,", "1]"]


@pytest.mark.long
def test_gradients_are_those_of_one_process(spread: tuple[str, list[list[str]]]) -> None:
    """Two micro-batches, the first without communication. Bound: 8 roundings on a path, sums of 12 numbers of either
    sign, as for one process; in fp32 the same numbers are added in another order. A scale left in is off by 1023."""
    precision, lines = spread
    for way, line in zip(WAYS, lines, strict=True):
        u = ROUNDOFF["policy" if way == "fsdp_with_policy" else precision]
        assert float(line[-1]) <= 8 * 12 * u, way


def test_one_process_alone_asks_nobody() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert agreed(True, optimizer)
    assert not agreed(False, optimizer)


def torchrun(*command: str) -> list[str]:
    start = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*start, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_ranks_that_use_different_parameters_or_reduce_by_hand() -> None:
    """Bit-identical to plain PyTorch; and one rank's overflow, reduced into all, is skipped on all."""
    program = str(PROGRAMS / "apart.py")
    ours = ["-m", "halfstep", "run", "--precision", "fp32:loss_scale=1024", program]
    plain = torchrun(program)
    assert torchrun(*ours) == plain
    *_, before, bad, _, after = torchrun(*ours, "overflow")
    assert bad == before
    assert after != before
    assert "inf" not in after
    assert "nan" not in after
