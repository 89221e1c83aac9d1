"""What cannot be followed or taken over is refused in one sentence; what ran otherwise is said in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from halfstep.machine.frameworks import FRAMEWORKS
from halfstep.record import read

from .conftest import PROGRAMS


def halfstep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "halfstep", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


SPAWNING = """\
import atexit, concurrent.futures, sys
import torch
import torch.multiprocessing as mp

def train(rank):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (weight @ weight).sum().backward()
    optimizer.step()
    print("trained", flush=True)

def evaluate(rank):
    with torch.no_grad():
        print("evaluated", *torch.nn.Linear(2, 2)(torch.ones(1, 2)).shape, flush=True)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.ones(2) * index

def trains_itself():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in torch.utils.data.DataLoader(Data(), 2, num_workers=1, multiprocessing_context="spawn"):
        model(batch).sum().backward()
        optimizer.step()

if __name__ == "__main__":
    work, how = {"train": train, "evaluate": evaluate}[sys.argv[1]], sys.argv[2]
    atexit.register(print, "at the end")
    if how == "torch":
        mp.spawn(work, nprocs=1)
    elif how == "pool":
        with mp.get_context("spawn").Pool(1) as pool:
            pool.map(work, [0])
    elif how == "executor":
        with concurrent.futures.ProcessPoolExecutor(1, mp.get_context("spawn")) as pool:
            list(pool.map(work, [0]))
    else:
        process = mp.get_context(how).Process(target=work, args=(0,))
        process.start()
        process.join()
    if work is evaluate:
        trains_itself()
"""
SPAWNED = (
    "halfstep: The program trains in processes that it spawns (torch.multiprocessing.spawn), which halfstep cannot "
    "follow; start them with torchrun (Lightning: strategy='ddp', not 'ddp_spawn'), or run with --precision as-is."
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["torch", "spawn", "forkserver", "pool", pytest.param("executor", marks=pytest.mark.long)]
)
def test_spawned_processes_that_train_are_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "s.py").write_text(SPAWNING)
    done = under("bf16", "s.py", "train", how, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "at the end\n"), done.stderr
    assert SPAWNED in done.stderr.splitlines()
    assert "leaked" not in done.stderr
    assert read(tmp_path / "r").end["status"] == "unsupported"


@pytest.mark.slow
def test_spawned_processes_that_do_not_train_run(tmp_path: Path) -> None:
    """Evaluation, and the workers of a data loader; the program itself trains in the recipe."""
    (tmp_path / "s.py").write_text(SPAWNING)
    done = under("bf16", "s.py", "evaluate", "torch", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "evaluated 1 2\nat the end\n"), done.stderr
    assert read(tmp_path / "r").end["steps"] == 2


@pytest.mark.slow
def test_spawned_processes_train_as_the_script_has_it(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SPAWNING)
    assert under("as-is", "s.py", "train", "torch", cwd=tmp_path).stdout == "trained\nat the end\n"


def under(recipe: str, *program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return halfstep("run", "--precision", recipe, "--record", "r", *program, cwd=cwd)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "s.py")
ACCELERATE = (
    "-m",
    "accelerate.commands.launch",
    "--num_processes",
    "1",
    "--num_machines",
    "1",
    "--cpu",
    "s.py",
)


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_launcher_as_the_program_is_refused(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    """Otherwise what it starts would be plain Python, whatever the recipe."""
    pytest.importorskip(launcher[1].partition(".")[0])
    (tmp_path / "s.py").write_text("print('trained')\n")
    done = under("bf16", *launcher, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "halfstep: The program is a launcher, whose processes halfstep cannot follow from here; put it in front, as in "
        '`torchrun … -m halfstep run --precision bf16 train.py`, or compare with `--launch "torchrun …"`.'
    )
    assert read(tmp_path / "r").end["status"] == "unsupported"
    assert under("as-is", *launcher, cwd=tmp_path).stdout == "trained\n"


#: what a script imports -> the module whose version is looked at, and one that is too old
OLD = {
    "lightning.pytorch": ("lightning", "2.5.6"),
    "pytorch_lightning": ("pytorch_lightning", "1.9.5"),
    "lightning.fabric": ("lightning", "2.0.0"),
    "lightning_fabric": ("lightning_fabric", "2.5.0.post0"),
    "accelerate": ("accelerate", "0.34.2"),
    "transformers.training_args": ("transformers", "4.57.1"),
    "deepspeed": ("deepspeed", "0.16.9"),
}


@pytest.mark.parametrize("module", OLD)
def test_a_framework_that_is_too_old_gets_one_sentence(tmp_path: Path, module: str) -> None:
    name, version = OLD[module]
    oldest = FRAMEWORKS[name].oldest_version
    folder = tmp_path
    for part in module.split("."):
        folder = folder / part
        folder.mkdir()
        (folder / "__init__.py").write_text(f"import torch\n__version__ = {version!r}\n")
    (tmp_path / "s.py").write_text(f"import {module}\nprint('trained')\n")
    done = under("bf16", "s.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"halfstep: {name} {version} is too old for halfstep, which takes over {name} {oldest} or later; "
        f"run `pip install '{name}>={oldest}'`.\n"
    )


TRAINING_ARGUMENTS = "TrainingArguments(fp16=True) and Accelerator(mixed_precision='fp16')"
#: framework -> lines that ask for fp16, the subject of the warning, what runs on a CPU instead
ASKED = {
    "lightning": ('trainer = Trainer(precision="16-mixed")', "Trainer(precision='16-mixed')", "bf16"),
    "transformers": ("arguments = TrainingArguments(fp16=True)", TRAINING_ARGUMENTS, "fp32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ASKED)
def test_fp16_asked_for_and_not_run_is_a_warning_in_the_table(tmp_path: Path, framework: str) -> None:
    pytest.importorskip(framework)
    lines, words, ran = ASKED[framework]
    (tmp_path / "lines").write_text(json.dumps([[framework, "fp16", lines]]))
    program = (str(PROGRAMS / "adopted.py"), "lines")
    done = halfstep("compare", "--precisions", "as-is", "--json", "c.json", *program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads((tmp_path / "c.json").read_text())["trials"]
    assert trial["matmul_share"] == {ran: 1.0}
    sentence = f"{words} asked for fp16, but only 0% of the matrix-product FLOPs ran in it (100% in {ran})"
    assert trial["warnings"] == [sentence]
    assert f"warning: as-is: {sentence}" in " ".join(done.stdout.split())
