"""FSDP2 (``fully_shard``) under bf16-lean: the numbers of a reference that keeps fp32 masters, sharded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from halfstep.errors import Unsupported
from halfstep.pytorch.recording.stored import stored_in

from ...cli.running import PROGRAMS
from ..conftest import Begin
from .test_replicas import launched

ALL = "[True, True]"
REFUSED = "Precision bf16-lean follows weights that fully_shard (FSDP2) shards, but the program "
INSTEAD = "; use fully_shard, DistributedDataParallel or --precision bf16."
OTHERWISE = "spreads them by other means, too (tensor parallelism, replicate)"


@pytest.mark.long
def test_losses_weights_and_moments_are_those_of_weights_rounded_at_each_use(tmp_path: Path) -> None:
    """One process's losses differ by roundings of bf16: half a last place of a loss below 1.

    Weights of 8 x 17, 17 x 5 and 5 x 2 are split; of 17 rows the first process has 9, of 5 it has 3, and one of 2.
    """
    lines = launched(str(PROGRAMS / "lean_fsdp.py"), str(tmp_path), cwd=tmp_path)
    off = float(lines.pop(2).removeprefix("off one process by "))
    assert off < 2**-9
    first, second = 8 * 9 + 17 * 3 + 5, 8 * 8 + 17 * 2 + 5
    of_one = [sum(4 * 3 * n if n > 4 else 4 * n for n in sizes) for sizes in ((9, 3, 1), (8, 2, 1))]
    stored = [
        {"bf16": 2 * matrices, "fp32": fp32, "remainder16": 2 * matrices}
        for matrices, fp32 in zip((first, second), of_one, strict=True)
    ]
    assert lines == [
        f"plain as rounded {ALL}",
        f"stored {stored[0]} {stored[1]}",
        f"accumulated as rounded {ALL}",
        f"synchronized as rounded {ALL}",
        f"clipped as rounded within 1e-6 {ALL}",
        f"written as rounded {ALL}",
        f"replicated as rounded {ALL}",
        f"resumed {ALL}",
        "moved, taken off True ['bf16', 'fp32', 'remainder16'] True ['fp32']",
        "bf16-lean:states=bf16 all alike True {'bf16': 462, 'fp32': 232, 'remainder16': 462}",
        f"resumed {ALL}",
        "bf16-sr:states=bf16 all alike True {'bf16': 462, 'fp32': 232}",
        REFUSED + OTHERWISE + INSTEAD,
    ]


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Of this process alone."""
    pytest.importorskip("torch.distributed.fsdp")
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def by_hand(net: nn.Module, mesh: Any, takeover: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    net[0].weight = nn.Parameter(distribute_tensor(net[0].weight.detach(), mesh, [Shard(0)]))


def offloaded(net: nn.Module, mesh: Any, takeover: Any) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    fully_shard(net, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))


def in_one_tensor(net: nn.Module, mesh: Any, takeover: Any) -> None:
    """As the integration tells of FSDP1, which itself wants an accelerator."""
    takeover.weights.shard(net, flat=True)


@pytest.mark.parametrize(
    ("shard", "why"),
    [
        (by_hand, OTHERWISE),
        (offloaded, "offloads them to the CPU (CPUOffloadPolicy)"),
        (in_one_tensor, "shards them by FullyShardedDataParallel (FSDP1)"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_first_step(
    begin: Begin, mesh: Any, shard: Any, why: str
) -> None:
    takeover = begin("bf16-lean")
    net = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(Unsupported) as error:
        shard(net, mesh, takeover)
        net(torch.ones(1, 3))
    assert str(error.value) == REFUSED + why + INSTEAD


def trained(net: nn.Module, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(steps):
        net(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_one_shard_of_all_trains_as_a_whole_weight_does(begin: Begin, mesh: Any) -> None:
    """Held from outside, assigned, and trained before it is sharded, too."""
    from torch.distributed.fsdp import fully_shard

    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))

    takeover = begin("bf16-lean")
    whole, net = made(), made()
    trained(whole, 2)
    trained(net, 2)
    takeover.weights.shard(net)
    fully_shard(net, mesh=mesh)
    before = net.state_dict()  # kept, as some programs do that save it again and again
    with torch.no_grad():
        net(torch.ones(2, 3))  # its weights are gathered in fp32, and stay so until the next pass
    net.reshard()  # type: ignore[operator]
    trained(whole)
    trained(net)
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name].full_tensor(), value)
        assert torch.equal(before[name].full_tensor(), value)
    assert stored_in(net.parameters(), [], []) == stored_in(whole.parameters(), [], [])
    net.load_state_dict({n: v * 0.5 for n, v in net.state_dict().items()}, assign=True)
    whole.load_state_dict({n: v * 0.5 for n, v in whole.state_dict().items()})
    trained(whole)
    trained(net)
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name].full_tensor(), value)
