"""A notebook as a program: its cells by IPython, its end as a script's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest

from halfstep.errors import UsageError
from halfstep.program import Target
from halfstep.program.cells import Cell
from halfstep.program.cells import read as code_of
from halfstep.record import read

from ..cli.running import Done, halfstep

PYTHON = {"name": "python3", "language": "python", "display_name": "Python 3"}

TRAINING = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(4):
    optimizer.zero_grad()
    loss = model(torch.ones(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
print(loss.item())
"""


def write(path: Path, cells: Sequence[str], kernel: dict[str, str] | None = None) -> Path:
    """A notebook of these code cells, with a cell of text before the first and an empty one after it."""
    new = nbformat.v4
    code = [new.new_code_cell(cell) for cell in cells]
    made = [new.new_markdown_cell("# Text"), *code[:1], new.new_code_cell(""), *code[1:]]
    notebook = new.new_notebook(cells=made, metadata={"kernelspec": kernel or PYTHON})
    nbformat.write(notebook, path)
    return path


def ipython(*arguments: str, cwd: Path) -> Done:
    """Run IPython's own program."""
    command = [sys.executable, "-m", "IPython", "--HistoryManager.enabled=False", *arguments]
    env = {**os.environ, "IPYTHONDIR": str(cwd / "profile")}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=env, check=False, stdin=subprocess.DEVNULL
    )


def run(precision: str, *arguments: str, cwd: Path) -> Done:
    env = {"IPYTHONDIR": str(cwd / "profile")}
    return halfstep("run", "--precision", precision, "--record", "r", *arguments, cwd=cwd, env=env)


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.long
def test_cells_run_as_ipython_runs_them(tmp_path: Path) -> None:
    write(
        tmp_path / "train.ipynb",
        [
            "import pickle, sys\nprint(sys.argv, __name__, __file__, sys.path[0])",
            "%env HALFSTEP_TEST=17\n!echo from the shell $HALFSTEP_TEST\nlines = !echo a; echo b\nprint(lines)",
            "import asyncio\nprint(await asyncio.sleep(0, 'awaited'))",
            "class Mine: pass\nprint(type(pickle.loads(pickle.dumps(Mine()))) is Mine)",
            "%%capture said\nprint('not shown')",
            "display(len(said.stdout))\nlen(said.stdout)",
            TRAINING,
        ],
    )
    theirs = ipython("train.ipynb", "--", "--lr", "3", cwd=tmp_path)
    ours = run("as-is", "train.ipynb", "--lr", "3", cwd=tmp_path)
    assert ours.stdout == theirs.stdout.replace("__main__ train.ipynb", f"__main__ {tmp_path}/train.ipynb")
    assert (ours.stderr, ours.returncode) == ("", 0)
    assert len(read(tmp_path / "r").steps) == 4


@pytest.mark.long
def test_the_first_cell_that_raises_ends_the_program(tmp_path: Path) -> None:
    write(tmp_path / "train.ipynb", [TRAINING, "def f(x):\n    return 1 / x", "f(0)", "print('never')"])
    done = run("bf16", "train.ipynb", cwd=tmp_path)
    shown = plain(done.stdout)
    assert done.returncode == 1
    assert "Cell In[3], line 1\n----> 1 f(0)" in shown
    assert "Cell In[2], line 2" in shown
    assert "never" not in shown
    end = read(tmp_path / "r").end
    assert (end["status"], end["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert (end["exit_code"], end["raised_at"]["place"]) == (1, "cell 2, line 2")
    assert end["raised_at"]["code"] == "return 1 / x"


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "code", "status"),
    [
        ("import sys; sys.exit(3)", 3, "failed"),
        ("import sys; sys.exit()", 0, "ok"),
        ("x = (", 1, "failed"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_how_a_notebook_ends(cell: str, code: int, status: str, tmp_path: Path) -> None:
    write(tmp_path / "train.ipynb", [TRAINING, cell, "print('never')"])
    done = run("fp32", "train.ipynb", cwd=tmp_path)
    assert (done.returncode, "never" in done.stdout) == (code, False)
    assert read(tmp_path / "r").end["status"] == status


@pytest.mark.long
def test_enough_steps_end_it_silently(tmp_path: Path) -> None:
    write(tmp_path / "train.ipynb", ["print('begin')", TRAINING])
    done = run("fp32", "--steps", "2", "train.ipynb", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("begin\n", "", 0)
    assert len(read(tmp_path / "r").steps) == 2


@pytest.mark.long
def test_a_format_error_names_the_cell_and_the_cure(tmp_path: Path) -> None:
    cell = TRAINING.replace("square()", "to(torch.float16).square()").replace(
        "loss.backward", "torch.linalg.inv(torch.eye(2).half())\n    loss.backward"
    )
    write(tmp_path / "train.ipynb", [cell])
    done = run("fp16", "train.ipynb", cwd=tmp_path)
    assert done.returncode == 1
    assert "cell 1, line 8" in read(tmp_path / "r").end["raised_at"]["place"]


@pytest.mark.long
def test_compare_and_diagnose(tmp_path: Path) -> None:
    net = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)\n"
        "    def forward(self, x):\n        return self.b(self.a(x) * 1e5)\n"
    )
    write(tmp_path / "train.ipynb", [net, TRAINING.replace("torch.nn.Linear(4, 1)", "Net()")])
    done = halfstep(
        "diagnose", "--precision", "fp16", "--steps", "4", "--json", "d.json", "train.ipynb", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    findings = json.loads((tmp_path / "d.json").read_text())["findings"]
    assert findings[0]["source"] == "cell 1, line 8"
    assert findings[0]["code"] == "return self.b(self.a(x) * 1e5)"
    looks = [
        "%load_ext halfstep",
        "%%halfstep compare\nx = 1",
        "for row in _.table(): print(row)\n_.recommendation",
        "print(Out[3].data, _3.table())",
    ]
    # IPython keeps a result in _ as long as no cell has given it another meaning.
    write(tmp_path / "train.ipynb", [TRAINING.replace("for _", "for step"), *looks])
    done = halfstep("compare", "--precisions", "fp32,bf16", "--json", "c.json", "train.ipynb", cwd=tmp_path)
    trials = json.loads((tmp_path / "c.json").read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["ok", "ok"], done.stderr


@pytest.mark.parametrize(
    "text",
    [
        *("", "hello", "[]", "{}", '{"cells": 3, "nbformat": 4}', "null", "[" * 100_000),
        '{"nbformat": ' + "9" * 5000 + "}",
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": []}, "cells": []}',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_notebook_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.ipynb"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        Target.parse(str(path), (), module=False)
    assert str(refused.value) == (
        f"'{path}' is no notebook that nbformat can read; give one that Jupyter opens, or a script."
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
def test_a_notebook_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.ipynb")
    with pytest.raises(UsageError, match="is no notebook that nbformat can read"):
        code_of("train.ipynb", str(tmp_path / "train.ipynb"))


@pytest.mark.parametrize("language", [5, ["x"], {"python": 1}, "R" * 10_000])
def test_another_language_is_told_in_short(language: object, tmp_path: Path) -> None:
    kernel = {"name": "a", "display_name": "b", "language": language}
    path = write(tmp_path / "train.ipynb", ["1"], kernel)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"is a notebook in .*; halfstep runs notebooks in Python"
    ) as refused:
        code_of("train.ipynb", str(path))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("ours", "cell"),
    [
        *[(ours, {"number": 7}) for ours in ("x", {}, {"folder": 5}, ["folder"])],
        *[({"folder": "/f"}, cell) for cell in ({}, [1], {"number": "7"}, {"number": -1}, {"number": True})],
    ],
)
def test_what_halfstep_has_not_written_numbers_no_cell(ours: object, cell: object, tmp_path: Path) -> None:
    path = write(tmp_path / "train.ipynb", ["first"])
    raw = json.loads(path.read_text())
    raw["metadata"]["halfstep"] = ours
    for each in raw["cells"]:
        each["metadata"]["halfstep"] = cell
    path.write_text(json.dumps(raw))
    found = code_of("train.ipynb", str(path))
    assert (found.cells, found.folder) == ((Cell(1, "first"),), "")


@pytest.mark.parametrize("command", ["run", "compare", "diagnose"])
def test_another_kernel_is_refused(command: str, tmp_path: Path) -> None:
    write(
        tmp_path / "train.ipynb", ["1"], {"name": "julia-1.9", "language": "julia", "display_name": "Julia"}
    )
    done = halfstep(command, "train.ipynb", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'train.ipynb' is a notebook in julia; halfstep runs notebooks in Python." in done.stderr


def test_without_ipython_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "train.ipynb", ["1"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as refused:
        Target.parse(str(path), (), module=False)
    assert str(refused.value) == (
        f"'{path}' is a notebook, which needs IPython and nbformat to be run; pip install 'halfstep[notebook]'."
    )


def test_an_older_notebook_is_read_as_jupyter_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "old.ipynb"
    cell = {
        "cell_type": "code",
        "input": ["x = 1\n", "x"],
        "language": "python",
        "outputs": [],
        "metadata": {},
        "collapsed": False,
    }
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [{"cells": [cell], "metadata": {}}],
    }
    path.write_text(json.dumps(old))
    assert code_of("old.ipynb", str(path)).cells == (Cell(1, "x = 1\nx"),)
