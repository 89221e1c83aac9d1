"""The magics, and switching precisions, in a real kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

import halfstep
from halfstep.cli.magics import HalfstepMagics, MagicError, _Text, _written
from halfstep.cli.own_cells import looks_at_results, own_lines_removed
from halfstep.program.cells import Cell
from halfstep.report.loading import Comparison

MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x = torch.ones(8, 4)
"""
TRAIN = """
for step in range(4):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
"""


@dataclass
class Shown:
    """What a cell has shown.

    Attributes:
        text: on stdout and stderr.
        results: what was displayed or is the cell's value, by MIME type.
        error: the exception's name and words.
    """

    text: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    error: str = ""


class Kernel:
    """A kernel of this Python, as a notebook has it."""

    def __init__(self, folder: Path) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(folder), startup_timeout=120)

    def run(self, code: str, cell_id: str = "", interrupt_at: str = "") -> Shown:
        """Run a cell; interrupt it once it has shown ``interrupt_at``."""
        shown, waiting = Shown(), bool(interrupt_at)
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self.client.session.msg("execute_request", content)
        message["metadata"] = {"cellId": cell_id} if cell_id else {}
        self.client.shell_channel.send(message)
        while True:
            got = self.client.get_iopub_msg(timeout=280)
            if got["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            kind, said = got["msg_type"], got["content"]
            if kind == "stream":
                shown.text += said["text"]
            elif kind in ("display_data", "execute_result"):
                shown.results.append(said["data"])
            elif kind == "update_display_data":
                shown.updates.append(said["data"]["text/plain"])
            elif kind == "error":
                shown.error = f"{said['ename']}: {said['evalue']}"
            elif kind == "status" and said["execution_state"] == "idle":
                return shown
            if waiting and interrupt_at in shown.text + "".join(shown.updates):
                waiting = False
                self.manager.interrupt_kernel()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.close()


def run_all(kernel: Kernel, cells: Sequence[str]) -> list[Shown]:
    done = [kernel.run(cell) for cell in cells]
    assert [shown.error for shown in done] == [""] * len(done)
    return done


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("%load_ext halfstep\nx = 1", "\nx = 1"),
        ("%%halfstep compare\nx = 1", ""),
        ("found = %halfstep diagnose fp16\nx = 1", "\nx = 1"),
        (
            "import halfstep\nhalfstep.enable('bf16')  # mine\nhalfstep.log(a=1)",
            "import halfstep\n\nhalfstep.log(a=1)",
        ),
        ("halfstep.disable()", ""),
        ("%halfstepping\n%load_ext autoreload", "%halfstepping\n%load_ext autoreload"),
    ],
)
def test_lines_about_halfstep_are_no_part_of_the_program(code: str, left: str) -> None:
    assert own_lines_removed(code) == left


@pytest.mark.parametrize(
    ("code", "looks"),
    [
        ("_.table()", True),
        ("for row in found.trials: print(row)", True),
        ("best = Out[3].recommendation", True),
        ("import halfstep as hs\nhs.compare('train.py')", True),
        ("from halfstep import load\nload('out')", True),
        ("again('train.py', precision='fp16')", True),
        ("halfstep.log(accuracy=1.0)\nOut[4]", False),
        ("found = 3\nmodel.compare(1)", False),
        ("torch.load('weights.pt')", False),
        ("def broken(:", False),
    ],
)
def test_a_cell_that_looks_at_what_was_found_is_known(code: str, looks: bool, tmp_path: Path) -> None:
    found = Comparison({}, tmp_path)
    names = {"_": found, "found": found, "Out": {3: found, 4: 1}, "halfstep": halfstep, "torch": object()}
    assert looks_at_results(code, {**names, "again": halfstep.diagnose}) is looks


def test_cells_are_listed_without_their_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [
        Cell(1, "print('\x1b[31mred\x1b]0;title\x07')"),
        Cell(2, "\x1b[2J\u202e\nx = 1"),
        Cell(3, "'\ud800'"),
    ]
    history = SimpleNamespace(program=lambda left_out: cells, looked=list)
    HalfstepMagics._program(SimpleNamespace(_history=history), None, only_cell=False)  # type: ignore[arg-type]
    listed = capsys.readouterr().out
    assert all(line.isprintable() for line in listed.splitlines())
    assert "In [1]     print('red')" in listed


def test_a_line_or_a_cell_that_cannot_be_read_or_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="in which a quote is left open; close it"):
        HalfstepMagics.halfstep(SimpleNamespace(_run=None), "compare 'open")  # type: ignore[arg-type]
    with pytest.raises(halfstep.HalfstepError, match="A cell holds half a surrogate pair"):
        _written(tmp_path / "n.ipynb", [Cell(1, "'\ud800'")])
    assert repr(_Text("step 1\x1b[2J")) == "step 1"


@pytest.mark.long
def test_a_comparison_of_what_the_kernel_has_run_and_a_cell(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("SCALE = 2.0\n")
    run_all(
        kernel, ["import mine\nwrong = 1", "%load_ext halfstep\n%load_ext autoreload\n%autoreload 2", MODEL]
    )
    assert kernel.run("1 / 0").error == "ZeroDivisionError: division by zero"
    interrupted = kernel.run("import time\nprint('waits', flush=True)\ntime.sleep(60)", interrupt_at="waits")
    assert interrupted.error.startswith("KeyboardInterrupt")
    kernel.run("x = x * 0", cell_id="scale")
    kernel.run("x = x + mine.SCALE", cell_id="scale")  # edited, and run again
    shown = kernel.run(f"%%halfstep compare --precisions fp32,bf16\n{TRAIN}\nhalf = x")
    assert shown.error == ""
    listed = [line.strip().split(maxsplit=2) for line in shown.text.splitlines() if line.startswith("  ")]
    assert [line[:2] for line in listed] == [
        ["In", "[1]"], ["In", "[2]"], ["In", "[3]"], ["In", "[7]"], ["this", "cell"],
    ]  # fmt: skip
    drawn = shown.results[-1]
    assert "<svg" in drawn["text/html"]
    assert "<script" not in drawn["text/html"]
    assert drawn["text/plain"].startswith(
        "<halfstep comparison of %halfstep compare --precisions fp32,bf16: "
    )
    assert any("trial 2 of 2: bf16" in line for line in shown.updates)
    checked = kernel.run(
        "found = _\n[(t['precision'], t['status'], t['steps']) for t in found.trials], 'half' in globals()"
    )
    assert checked.results[0]["text/plain"] == "([('fp32', 'ok', 4), ('bf16', 'ok', 4)], False)"
    again = kernel.run(f"%%halfstep compare --precisions fp32 --steps 1\n{TRAIN}")
    assert again.error == ""
    assert "Left out, as they only look at what halfstep found: In [9]\n" in again.text
    assert "ok: 1 step in" in again.updates[-1]


@pytest.mark.long
def test_only_the_cell_and_a_diagnosis(kernel: Kernel) -> None:
    run_all(kernel, ["%load_ext halfstep", MODEL, TRAIN])
    shown = kernel.run("found = %halfstep diagnose fp16 --steps 4\nfound")
    assert shown.error == ""
    drawn = shown.results[-1]
    assert "Nothing wrong was found" in re.sub("<[^>]*>", "", drawn["text/html"])
    assert "<script" not in drawn["text/html"]
    assert (
        drawn["text/plain"] == "<halfstep diagnosis of %halfstep diagnose fp16 --steps 4 in fp16: 0 findings>"
    )
    shown = kernel.run(f"%%halfstep compare --only-cell --precisions fp32\n{MODEL}{TRAIN}")
    assert "this cell" in shown.text
    assert "In [" not in shown.text
    assert kernel.run("_.trials[0]['steps']").results[0]["text/plain"] == "4"


@pytest.mark.long
def test_an_interrupt_ends_the_trials_and_shows_what_there_is(kernel: Kernel) -> None:
    run_all(kernel, ["%load_ext halfstep", MODEL])
    slow = TRAIN.replace("optimizer.step()", "optimizer.step()\n    import time; time.sleep(1)").replace(
        "4", "30"
    )
    shown = kernel.run(f"%%halfstep compare --precisions fp32,bf16\n{slow}", interrupt_at="step 3")
    assert shown.error == ""
    assert "text/html" in shown.results[-1]
    status = kernel.run("[t['status'] for t in _.trials]").results[0]["text/plain"]
    assert status == "['interrupted']"


@pytest.mark.long
def test_mistakes_are_one_sentence(kernel: Kernel) -> None:
    run_all(kernel, ["%load_ext halfstep"])
    for line, sentence in {
        "%halfstep": "write %halfstep compare [OPTIONS]",
        "%halfstep compare": "There is no cell to run",
        "%%halfstep compare --stepz 3\nx = 1": "No such option",
        "%%halfstep compare --precisions fp17\nx = 1": "Unknown precision 'fp17'",
    }.items():
        shown = kernel.run(line)
        assert "Traceback" not in shown.text
        assert sentence in shown.text + shown.error, line


@pytest.mark.long
def test_enable_again_and_disable_in_a_kernel(kernel: Kernel) -> None:
    seen = "dtypes.clear(); model(x); print(*dtypes)"
    spy = (
        "dtypes = []\nhandle = model[0].register_forward_hook(lambda m, given, got: dtypes.append(got.dtype))"
    )
    run_all(kernel, [MODEL, spy, TRAIN])
    for precision, dtype in {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.items():
        done = run_all(kernel, 2 * [f"import halfstep\nhalfstep.enable({precision!r})"] + [TRAIN, seen])
        assert done[-1].text.strip().endswith(f"torch.{dtype}")
    hook = "def stop(gradient): raise KeyboardInterrupt\nstopping = model[0].weight.register_hook(stop)"
    run_all(kernel, ["halfstep.enable('fp16')", hook])
    assert kernel.run(TRAIN).error.startswith("KeyboardInterrupt")
    done = run_all(kernel, ["stopping.remove()\nhalfstep.disable()", TRAIN, seen])
    assert done[-1].text.strip() == "torch.float32"
    done = run_all(kernel, [f"with halfstep.precision('bf16'):\n    {seen}", seen])
    assert [shown.text.strip().split()[0] for shown in done] == ["torch.bfloat16", "torch.float32"]
    assert (
        "halfstep"
        not in run_all(
            kernel, ["print(type(model).__call__.__module__, torch.autograd.grad.__code__.co_filename)"]
        )[0].text
    )
