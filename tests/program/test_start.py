"""halfstep's own processes import nothing of the folder that they are started in, nor of the program's."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import halfstep
from halfstep.processes import standard
from halfstep.program.child import START, command
from halfstep.record import read
from halfstep.trials import Job, Trial

PROGRAM = """
import torch, halfstep
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
"""
PLANTED = "raise SystemExit('planted')\n"


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(PLANTED)


def test_a_comparison_and_info_import_nothing_of_the_current_folder(tmp_path: Path) -> None:
    folder, program = tmp_path / "here", tmp_path / "there" / "train.py"
    for path in (folder, program.parent):
        path.mkdir()
    program.write_text(PROGRAM)
    plant(folder, "click", "platform", "halfstep", "json", "resource", "torch", "psutil", "sitecustomize")
    script = str(Path(sys.executable).with_name("halfstep"))
    done = subprocess.run(
        [script, "compare", "--precisions", "fp32", "--json", "c.json", str(program)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads((folder / "c.json").read_text())["trials"]
    assert (trial["status"], trial["steps"]) == ("ok", 4)


def test_what_is_measured_late_does_not_see_the_programs_folder(tmp_path: Path) -> None:
    """While the program itself finds its own module, as under python."""
    (tmp_path / "train.py").write_text(f"{PROGRAM}\nimport resource\nprint(resource.mine)\n")
    (tmp_path / "resource.py").write_text("mine = 'mine'\n")
    done = subprocess.run(
        command("run", "--precision", "bf16", "--record", "r.jsonl", "train.py"),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr
    end = read(tmp_path / "r.jsonl").end
    assert end["load"]["involuntary_switches"] >= 0
    assert end["peak_memory_bytes"] >= 0


def test_modules_that_pytorch_does_not_import_are_found_by_standard() -> None:
    """The others are there when halfstep wants them, so a file beside the program breaks it under python, too."""
    tree = [ast.parse(path.read_text()) for path in Path(halfstep.__file__).parent.glob("meters/*.py")]
    imported = {
        a.name for t in tree for node in ast.walk(t) if isinstance(node, ast.Import) for a in node.names
    }
    assert "resource" not in imported
    assert standard("resource").RUSAGE_SELF == 0
    assert standard("resource") is standard("resource")


def test_the_interpreters_options_reach_a_trial() -> None:
    script = "from halfstep.program.child import command; import json; print(json.dumps(command('run', 'x')))"
    done = subprocess.run(
        [sys.executable, "-O", "-W", "ignore::UserWarning", "-X", "dev", "-c", script],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told[0] == sys.executable
    assert told[-3:] == [START, "run", "x"]
    assert {"-O", "-Wignore::UserWarning", "-X"} <= set(told)


def test_a_launcher_starts_the_same_file() -> None:
    job = Job("train.py", ("--lr", "1"), False, Path("/out"), launch="torchrun --nproc-per-node 2")
    told = job.command(Trial("fp32"))
    assert told[:5] == [*shlex.split(job.launch), START, "run"]
    assert told[-3:] == ["train.py", "--lr", "1"]


def test_it_runs_where_halfstep_is_not_installed(tmp_path: Path) -> None:
    """Only a path that is not handed on may have led to it."""
    libraries = os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    done = subprocess.run(
        [sys.executable, "-S", START, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": libraries},
    )  # fmt: skip
    assert done.stdout.startswith("halfstep, version"), done.stderr
