"""DistributedDataParallel under ``bf16-lean``: the numbers of a reference, in every process alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from halfstep.errors import Unsupported
from halfstep.pytorch.lean import replicas
from halfstep.pytorch.lean.replicas import data_setter
from halfstep.record import read

from ...cli.running import PROGRAMS
from ..conftest import Begin, compiled

TORCHRUN = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2")


def launched(*command: str, cwd: Path) -> list[str]:
    """The lines that two processes print."""
    done = subprocess.run(
        [*TORCHRUN, *command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_losses_weights_and_moments_are_those_of_weights_rounded_at_each_use(tmp_path: Path) -> None:
    compiled(data_setter())
    *ways, refusal = launched(str(PROGRAMS / "lean_ddp.py"), cwd=tmp_path)
    names = ("plain", "first", "synchronized", "static")
    assert ways == [f"{name} as rounded True all alike True torch.bfloat16" for name in names]
    assert refusal == (
        "halfstep cannot take precision bf16-lean off again here: DistributedDataParallel was given bf16 weights, and "
        "reduces nothing else; restart the program."
    )


@pytest.mark.long
def test_each_process_stores_bf16_weights_remainders_and_gradients(tmp_path: Path) -> None:
    """An 8 x 16 layer is split; one of a single row, and the biases, stay fp32."""
    compiled(data_setter())
    run = ("-m", "halfstep", "run", "--precision", "bf16-lean", "--record", "r", str(PROGRAMS / "ddp.py"))
    launched(*run, cwd=tmp_path)
    for name in ("r", "r.rank1"):
        stored = read(tmp_path / name).stored
        assert stored is not None
        assert stored.weights == {"bf16": 256, "remainder16": 256, "fp32": 4 * 33}
        assert stored.gradients == {"bf16": 256, "fp32": 4 * 33}


def test_a_hook_on_an_accumulate_grad_node_outlives_a_change_of_dtype() -> None:
    set_data = compiled(data_setter())
    parameter, narrow = nn.Parameter(torch.zeros(2, 3, dtype=torch.bfloat16)), torch.zeros(2, 3).bfloat16()
    node = torch.autograd.graph.get_gradient_edge(parameter).node
    seen: list[Tensor | None] = []
    node.register_hook(lambda *_: seen.append(parameter.grad))
    for step in range(1, 3):
        set_data(parameter, torch.full((2, 3), 0.5))
        assert parameter.dtype is torch.float32
        assert parameter.detach().sum() == 3
        set_data(parameter, narrow)
        parameter.sum().backward()
        assert len(seen) == step
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.bfloat16


def test_without_a_compiler_ddp_is_refused(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    begin("bf16-lean")
    monkeypatch.setattr(replicas, "data_setter", lambda: None)
    monkeypatch.setattr(replicas, "prepare", lambda sources: "there is no compiler; set CXX to one")
    sentence = (
        "Precision bf16-lean needs a C++ compiler where the program uses DistributedDataParallel, but there is no "
        "compiler; set CXX to one; use --precision bf16."
    )
    with pytest.raises(Unsupported, match=f"^{sentence.replace('+', '[+]')}$"):
        nn.parallel.DistributedDataParallel(nn.Linear(2, 2))


def test_replicas_in_threads_are_refused(begin: Begin) -> None:
    begin("bf16-lean")
    with pytest.raises(Unsupported, match="the program uses DataParallel; use DistributedDataParallel or"):
        nn.DataParallel(nn.Linear(2, 2))


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_replica_of_before_is_refused(begin: Begin) -> None:
    replica = nn.parallel.DistributedDataParallel(nn.Linear(3, 4))
    begin("bf16-lean")
    with pytest.raises(
        Unsupported, match="put into force after the program had given DistributedDataParallel its"
    ):
        replica(torch.ones(1, 3))
