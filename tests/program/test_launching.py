"""How launchers are told to start halfstep, and which rank a process has."""

from __future__ import annotations

import pytest

from halfstep.program.child import START, command
from halfstep.program.launching import rank, start_of_command, world_size


@pytest.mark.parametrize(
    ("launch", "added"),
    [
        ("", command()),
        ("torchrun --nproc-per-node 2", [START]),
        ("/opt/bin/torchrun --standalone --nproc-per-node 2", [START]),
        ("python -m torch.distributed.run --nproc-per-node 2", [START]),
        ("accelerate launch --multi_gpu --num_processes 2", [START]),
        ("mpirun -np 2", command()),
        ("mpirun -np 2 python3.11", [START]),
        ("srun --ntasks 2", command()),
        ("mpirun -n 2 --wdir /data/python-project", command()),
        ("mpirun --hostfile python.hosts -n 2", command()),
        ("nice -n 5", command()),
        ("nohup", command()),
        ("env A=1", command()),
        ("fabric run --devices 2", ["--", START]),
        ("deepspeed --num_gpus 2", [START]),
    ],
)
def test_each_launcher_is_told_in_its_own_way(launch: str, added: list[str]) -> None:
    assert start_of_command(launch) == [*launch.split(), *added]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, (3, 4)),
        ({"LOCAL_RANK": "1"}, (1, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, (5, 8)),
        ({"RANK": "1", "SLURM_PROCID": "0", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "", "OMPI_COMM_WORLD_RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_the_rank_is_the_nearest_launchers(environment: dict[str, str], told: tuple[int, int]) -> None:
    assert (rank(environment), world_size(environment)) == told
