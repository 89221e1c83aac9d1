"""A Ray cluster of two machines, both on this one: ``make test-long`` runs these, in an environment with Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import halfstep as package
from halfstep.record import read

from ...cli.running import PROGRAMS, halfstep, runs

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray has an environment of its own: make test-long"),
    pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is a loopback address on Linux alone"),
]  # fmt: skip

#: of each machine of the cluster; Ray puts the outer address in the place of 127.0.0.1
MACHINE = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.2",
    "include_dashboard": False,
    "object_store_memory": 100 * 2**20,
}
#: where its first one listens for ray://HOST
CLIENT_PORT = 21001
OPTIONS = ("--precisions", "fp32,bf16", "--seeds", "2", "--out", "o")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines, of which one may be removed."""
    wait = "RAY_raylet_start_wait_time_s"  # two machines on two busy cores
    os.environ[wait] = "200"
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(
            initialize_head=True, head_node_args={**MACHINE, "ray_client_server_port": CLIENT_PORT}
        )
    except Exception as error:  # Ray has no class of its own for this
        pytest.skip(f"Ray itself does not start on this machine: {error}")
    try:
        yield made
    finally:
        made.shutdown()
        del os.environ[wait]


@pytest.fixture
def folder(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the program, from where the cluster is reached, which has two machines."""
    if not cluster.worker_nodes:
        cluster.add_node(**MACHINE)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    shutil.copy(PROGRAMS / "paced.py", tmp_path)
    return tmp_path


def records(folder: Path) -> list[Path]:
    """Those of the two trials that run first."""
    return [folder / "o" / "trials" / f"fp32-seed{seed}-repeat0.jsonl" for seed in (0, 1)]


def while_both_train(
    folder: Path, then: Callable[[subprocess.Popen[str]], Any], *program: str
) -> tuple[int, str]:
    """Compare on the cluster, and do ``then`` when a trial trains on each machine; the exit code and stderr."""
    command = [sys.executable, "-m", "halfstep", "compare", "--on", "ray", *OPTIONS, *program]
    with subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        end = time.monotonic() + 200
        while not all(each.exists() and len(read(each).steps) >= 4 for each in records(folder)):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        then(child)
        _, stderr = child.communicate(timeout=400)
        return child.returncode, stderr


def test_a_machine_that_is_killed_changes_no_comparison(cluster: Any, folder: Path, tmp_path: Path) -> None:
    gone = next(iter(cluster.worker_nodes))
    code, stderr = while_both_train(
        folder, lambda child: cluster.remove_node(gone, allow_graceful=False), "paced.py", "30", "0.2"
    )
    assert code == 0, stderr
    assert stderr.count("the machine that ran it is gone; its block is run again") == 1
    assert "state-dump" not in stderr
    found = package.load(folder / "o")
    assert not any(runs(pid) for trial in found.trials if (pid := trial.get("pid")))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "paced.py", alone)
    done = halfstep("compare", *OPTIONS, "paced.py", "30", "0", cwd=alone)
    assert done.returncode == 0, done.stderr
    in_turn = package.load(alone / "o")
    names = ("precision", "seed", "repeat", "status", "losses", "ran_as", "stored")
    assert [[t[n] for n in names] for t in found.trials] == [[t[n] for n in names] for t in in_turn.trials]
    assert found.data["options"]["on"] == "ray"
    assert found.data["environment"]["cluster"]["machines"] == 2


def test_ctrl_c_ends_the_trials_on_all_machines(folder: Path) -> None:
    code, stderr = while_both_train(
        folder, lambda child: child.send_signal(signal.SIGINT), "paced.py", "3000", "0.2"
    )
    assert code == 1
    found = package.load(folder / "o")
    assert [trial["status"] for trial in found.trials] == ["interrupted"] * 2, stderr
    assert all("interrupted by Ctrl-C after" in trial["reason"] for trial in found.trials)
    assert not any(runs(read(record).start["pid"]) for record in records(folder))


def test_a_comparison_that_is_killed_leaves_no_trial_behind(folder: Path) -> None:
    code, _ = while_both_train(folder, lambda child: child.kill(), "paced.py", "3000", "0.2")
    assert code == -signal.SIGKILL
    end = time.monotonic() + 60
    while any(runs(read(record).start["pid"]) for record in records(folder)):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_it_is_reached_by_its_head_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    on = f"ray://127.0.0.2:{CLIENT_PORT}"
    command = ("compare", "--on", on, "--precisions", "fp32", "--seeds", "2", "--out", "o")
    done = halfstep(*command, "paced.py", "8", "0.5", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = package.load(folder / "o")
    assert [(t["status"], t["steps"]) for t in found.trials] == [("ok", 8)] * 2
    assert found.data["environment"]["cluster"]["machines"] == 2


def test_what_the_cluster_cannot_do_is_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    done = halfstep(
        "compare", "--on", "ray", "--resources", "gpu=9", *OPTIONS, "paced.py", "3", "0", cwd=folder
    )
    assert done.returncode == 2
    assert "no machine of the cluster has gpu=9 for a block; give less by --resources" in done.stderr.replace(
        "\n", " "
    )
    for on, at in (("ray", "127.0.0.2:9"), ("ray://127.0.0.2", "127.0.0.2:10001")):
        done = halfstep(
            "compare", "--on", on, *OPTIONS, "paced.py", "3", "0", cwd=folder, env={"RAY_ADDRESS": at}
        )
        assert done.returncode == 2
        assert f"--on {on}: nobody listens at {at} (" in done.stderr.replace("\n", " ")


def test_a_cluster_of_ones_own_listens_on_the_loopback_device_and_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    (folder / "listening.py").write_text(LISTENING)
    command = ("compare", "--on", "ray", "--resources", "cpu=1", "--precisions", "fp32", "--out", "o")
    done = halfstep(*command, "listening.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    heard = (folder / "o" / "trials" / "fp32-seed0-repeat0.log").read_text()
    addresses = json.loads(heard.splitlines()[-1])
    assert addresses
    assert {each for each in addresses if not each.removeprefix("::ffff:").startswith("127.")} == set()


LISTENING = """
import json, psutil, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
found = set()
raylet = next(p for p in psutil.Process().parents() if "raylet" in p.name())
for process in [raylet.parent(), raylet, *raylet.parent().children(recursive=True)]:
    found |= {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
print(json.dumps(sorted(found)))
"""
