"""``halfstep diagnose``, end to end: one object in terminal, page and JSON; remedies that were tried; mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .running import PROGRAMS, halfstep

FAILURES = PROGRAMS / "failures"


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The logits that overflow, with the remedies tried."""
    folder = tmp_path_factory.mktemp("diagnosis")
    done = halfstep(
        "diagnose", "--precision", "fp16", "--steps", "6", "--try-remedies", "--json", "d.json", "--out", "out",
        str(FAILURES / "attention_logits.py"), cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"done": done, "folder": folder, "json": json.loads((folder / "d.json").read_text())}


def test_the_json_has_the_contracts_fields(diagnosed: dict[str, Any]) -> None:
    found = diagnosed["json"]
    assert found["schema"] == "halfstep/diagnosis/1"
    first = found["findings"][0]
    assert {"kind", "where", "operation", "direction", "step", "evidence", "remedy", "source"} <= first.keys()
    assert (first["kind"], first["where"], first["operation"]) == ("overflow", "attention", "bmm")
    assert (first["direction"], first["step"]) == ("forward", 0)
    line = (
        (FAILURES / "attention_logits.py")
        .read_text()
        .splitlines()[int(first["source"].rpartition(":")[2]) - 1]
    )
    assert line.strip() == first["code"] == "logits = (self.gain * q) @ (self.gain * k).transpose(-2, -1)"
    assert [layer["module"] for layer in found["layers"]] == ["attention.qkv", "attention", "head"]
    assert found["reference"]["status"] == "ok"


def test_the_evidence_is_what_fp32_has_there(diagnosed: dict[str, Any]) -> None:
    reached = float(diagnosed["json"]["findings"][0]["evidence"].split("reaches ")[1].split(";")[0])
    assert reached > 65504
    layer = next(row for row in diagnosed["json"]["layers"] if row["module"] == "attention.qkv")
    # A product of two vectors of 32 numbers, each 300 times what the layer gives out.
    assert reached <= 32 * (300 * layer["activations"]["largest"]) ** 2


def test_remedies_were_tried_and_work(diagnosed: dict[str, Any]) -> None:
    ways = {way["recipe"]: way for way in diagnosed["json"]["findings"][0]["remedies"]}
    assert ways["bf16"]["works"] is True
    assert ways["fp16:keep=attention"]["works"] is True
    assert "the finding is gone" in ways["bf16"]["outcome"]
    assert all(way["works"] is None for way in ways.values() if way["recipe"] is None)


def test_terminal_and_page_tell_the_same(diagnosed: dict[str, Any]) -> None:
    evidence = diagnosed["json"]["findings"][0]["evidence"]
    assert evidence in " ".join(diagnosed["done"].stdout.split())
    page = (diagnosed["folder"] / "out" / "diagnosis.html").read_text()
    assert evidence in page
    assert 'src="http' not in page
    assert json.loads((diagnosed["folder"] / "out" / "diagnosis.json").read_text()) == diagnosed["json"]


def test_it_ends_with_the_next_command(diagnosed: dict[str, Any]) -> None:
    words = " ".join(diagnosed["done"].stdout.split())
    assert words.endswith(f"next halfstep compare --precisions fp32,bf16 {FAILURES / 'attention_logits.py'}")


def test_a_diagnosis_is_redrawn_from_its_folder(diagnosed: dict[str, Any], tmp_path: Path) -> None:
    page = diagnosed["folder"] / "out" / "diagnosis.html"
    before = page.read_text()
    page.unlink()
    done = halfstep("report", str(diagnosed["folder"] / "out"), "--json", "-", cwd=tmp_path)
    assert json.loads(done.stdout) == diagnosed["json"]
    assert page.read_text() == before
    assert diagnosed["json"]["findings"][0]["evidence"] in " ".join(done.stderr.split())
    done = halfstep("report", "out", "--csv", "c.csv", cwd=diagnosed["folder"])
    assert (done.returncode, done.stderr) == (
        2,
        "halfstep: --csv c.csv was given, but 'out' holds a diagnosis, which has no table of trials; use --json.\n",
    )


@pytest.mark.parametrize("given", [("--require", "bf16: no worse"), ("--markdown", "t.md")])
def test_what_is_of_a_comparisons_table_is_refused_for_a_diagnosis(
    diagnosed: dict[str, Any], given: tuple[str, str]
) -> None:
    done = halfstep("report", "out", *given, cwd=diagnosed["folder"])
    assert done.returncode == 2
    assert (
        f"halfstep: {' '.join(given)} was given, but 'out' holds a diagnosis, which has no table"
        in done.stderr
    )


def test_a_diagnosis_in_a_comparisons_folder_is_a_section_of_its_page(tmp_path: Path) -> None:
    program = str(FAILURES / "outlier_sample.py")
    compared = halfstep(
        "compare", "--precisions", "fp32", "--steps", "2", "--out", "out", program, cwd=tmp_path
    )
    assert compared.returncode == 0, compared.stderr
    record = tmp_path / "out" / "trials" / "fp32-seed0-repeat0.jsonl"
    trained, table = record.read_bytes(), compared.stdout.splitlines()[0]
    done = halfstep(
        "diagnose",
        "--precision",
        "fp8-e4m3",
        "--emulate",
        "--steps",
        "2",
        "--out",
        "out",
        program,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"page{tmp_path / 'out' / 'report.html'}" in "".join(done.stdout.split())
    assert record.read_bytes() == trained  # the diagnosis has an fp32 trial of its own
    for again in ([], ["report", "out"], ["compare", "--resume", "out"]):
        shown = halfstep(*again, cwd=tmp_path) if again else compared
        page = (tmp_path / "out" / "report.html").read_text()
        assert shown.stdout.splitlines()[0] == table
        assert "is flushed to zero by fp8_e4m3" in page
        assert 'data-figure="d0-inputs"' in page
        (tmp_path / "out" / "report.html").unlink()


def test_what_is_no_diagnosis_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for text, said in (
        (
            "{}",
            "has schema None; this version of halfstep reads 'halfstep/diagnosis/1': run `halfstep diagnose` again",
        ),
        (
            "[",
            "is not a diagnosis (Expecting value: line 1 column 2 (char 1)); run `halfstep diagnose` again",
        ),
    ):
        (tmp_path / "out" / "diagnosis.json").write_text(text)
        done = halfstep("report", "out", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (
            2,
            f"halfstep: 'out/diagnosis.json' {said}, or delete it.\n",
        )


def test_an_emulated_precision_says_what_its_operands_lose(tmp_path: Path) -> None:
    done = halfstep(
        "diagnose", "--precision", "fp8-e4m3", "--emulate", "--steps", "3", "--json", "-", "--try-remedies",
        str(FAILURES / "outlier_sample.py"), cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    first, layer = found["findings"][0], found["layers"][0]["inputs"]
    assert (first["kind"], first["where"], first["direction"]) == ("underflow", "0", "forward")
    # All but one of 64 samples lie some 2^21 below the largest number; E4M3 ends 2^19 below it.
    assert layer["flushed"] == 63 / 64
    assert first["evidence"] == (
        "98% of the inputs of its products is flushed to zero by fp8_e4m3 (the mean over vectors, by magnitude; "
        "4,032 of 4,096 numbers)"
    )
    assert (found["emulated"], found["ran_as"]) == (True, "fp8-e4m3, emulated in fp32")
    assert [way["works"] for way in first["remedies"]] == [True, True, None]
    assert "halfstep compare --emulate --precisions fp32,mxfp8" in " ".join(done.stderr.split())


def test_without_emulate_it_names_the_option(tmp_path: Path) -> None:
    done = halfstep("diagnose", "--precision", "fp8", str(FAILURES / "outlier_sample.py"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "halfstep: Precision fp8 cannot run here: halfstep runs it only emulated; --emulate rounds to it inside fp32 "
        "tensors."
    )


def test_as_on_cuda_says_so(tmp_path: Path) -> None:
    """The overflow of a product with ones is the same on a GPU."""
    done = halfstep(
        "diagnose",
        "--steps",
        "2",
        "--json",
        "-",
        "--as-on",
        "cuda",
        str(FAILURES / "long_mean.py"),
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert [f["kind"] for f in found["findings"]] == ["overflow"]
    assert found["ran_as"].startswith("fp16 with CUDA's autocast lists")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["as-is", "fp32"])
def test_as_is_and_fp32_can_be_diagnosed(precision: str, tmp_path: Path) -> None:
    done = halfstep(
        "diagnose", "--precision", precision, "--steps", "3", "--json", "-", str(FAILURES / "tiny_gradients.py"), "healthy",
        cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["findings"], found["steps"]) == ([], 3)
    assert f"Nothing wrong was found with the numbers of 3 steps in {precision}." in done.stderr


@pytest.mark.slow
def test_a_compiled_model_runs_eagerly_and_says_so(tmp_path: Path) -> None:
    program = tmp_path / "compiled.py"
    program.write_text(
        "import torch\n"
        "model = torch.compile(torch.nn.Linear(4, 1))\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(2):\n"
        "    model(torch.ones(2, 4)).sum().backward()\n"
        "    optimizer.step()\n"
    )
    done = halfstep("diagnose", "--precision", "fp32", "--json", "-", str(program), cwd=tmp_path)
    found = json.loads(done.stdout)
    assert "the compiled model ran eagerly: inside compiled code no operation can be seen" in found["notes"]
    assert found["layers"][0]["activations"]["elements"] == 2 * 2


def test_a_program_that_never_trains_is_one_sentence(tmp_path: Path) -> None:
    done = halfstep("diagnose", "--out", "out", str(PROGRAMS / "faulty.py"), "no_training", cwd=tmp_path)
    assert done.returncode == 2
    log = tmp_path / "out" / "trials" / "fp16-seed0-repeat0.log"
    assert done.stderr.splitlines()[-1] == (
        "halfstep: The program made no optimizer step in fp16 (ended without an optimizer step), so there is nothing to "
        f"diagnose; give a program that trains with PyTorch, and see its output in {str(log)!r}."
    )


def test_an_unknown_precision_lists_what_exists(tmp_path: Path) -> None:
    done = halfstep("diagnose", "--precision", "fp17", "train.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("halfstep: Unknown precision 'fp17'; choose one of as-is, fp32, ")
    assert not (tmp_path / "halfstep-out").exists()


ONLY_COMPILED = """
import torch
calls = 0
def faulty(graph, inputs):
    def run(*args):
        global calls
        calls += 1
        made = graph(*args)
        return made if calls < 4 else tuple(r * float("nan") if i == 0 else r for i, r in enumerate(made))
    return run
torch.manual_seed(0)
first, last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
fast = torch.compile(first, backend=faulty)
optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
for _ in range(6):
    optimizer.zero_grad()
    last(fast(torch.ones(2, 4))).square().sum().backward()
    optimizer.step()
"""


ONE_GRAPH_OFF = """
import torch
graphs = 0
def faulty(graph, inputs):
    global graphs
    graphs += 1
    off = 1.01 if graphs == OFF else 1.0
    return lambda *args: tuple(result * off for result in graph(*args))
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
    def forward(self, x):
        x = torch.tanh(self.blocks[1](torch.tanh(self.blocks[0](x))))
        torch._dynamo.graph_break()
        return torch.tanh(self.blocks[3](torch.tanh(self.blocks[2](x)))).sum()
torch.manual_seed(0)
net = Net()
fast = torch.compile(net, backend=faulty)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    fast(torch.ones(2, 8)).backward()
    optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("off", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
def test_the_compiled_graph_that_differs_is_named(tmp_path: Path, off: int) -> None:
    """The backend multiplies the results of one graph by 1.01: every loss is finite."""
    program = tmp_path / "compiled.py"
    program.write_text(ONE_GRAPH_OFF.replace("OFF", str(off)))
    done = halfstep("diagnose", "--precision", "fp32", "--json", "-", str(program), cwd=tmp_path)
    found = json.loads(done.stdout)
    graphs = found["compiled"]["graphs"]
    assert [(graph["graph"], graph["module"], graph["last"]) for graph in graphs] == [
        (1, "blocks.0", "blocks.1"),
        (2, "blocks.2", "blocks.3"),
    ]
    assert found["compiled"]["graph_differs"] == (off or None)
    (note,) = [note for note in found["notes"] if "compiled and unwatched" in note]
    if not off:
        assert (
            "on the same inputs each of the 2 compiled graphs gives what it gives eagerly, to within rounding"
            in note
        )
        return
    named = {
        1: "graph 1 of 2, which holds blocks.0 to blocks.1",
        2: "graph 2 of 2, which holds blocks.2 to blocks.3",
    }
    assert f"compiled {named[off]}, differs from itself run eagerly by " in note
    assert graphs[off - 1]["error"] == pytest.approx(0.01, rel=0.2)


@pytest.mark.slow
def test_nan_that_only_compiled_code_makes_is_found(tmp_path: Path) -> None:
    """The backend spoils the fourth call; eagerly, where operations can be watched, it is never asked."""
    program = tmp_path / "compiled.py"
    program.write_text(ONLY_COMPILED)
    done = halfstep("diagnose", "--precision", "fp32", "--json", "-", str(program), cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["compiled"]["only_compiled"] == 3
    assert found["compiled"]["differs"] is False
    worst = found["findings"][0]
    assert (worst["kind"], worst["operation"], worst["step"]) == ("nan_source", "compiled code", 3)
    assert all(loss is not None for loss in found["losses"])
