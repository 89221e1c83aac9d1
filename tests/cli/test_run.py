"""``halfstep run`` as a user sees it: the program's own output and exit code, halfstep's words on stderr."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halfstep.pytorch import capabilities
from halfstep.record import read
from halfstep.record.ran import Ran
from halfstep.words.ran import words

from .running import PROGRAMS, halfstep, python

FAULTY = str(PROGRAMS / "faulty.py")
AMP = str(PROGRAMS / "with_amp.py")


@pytest.fixture(scope="module")
def plain() -> str:
    return python(FAULTY).stdout


@pytest.mark.parametrize("precision", ["as-is", "fp32"])
def test_output_is_bit_identical(plain: str, precision: str) -> None:
    done = halfstep("run", "--precision", precision, FAULTY)
    assert (done.stdout, done.stderr, done.returncode) == (plain, "", 0)


def test_a_record_changes_nothing_that_is_printed(plain: str, tmp_path: Path) -> None:
    done = halfstep("run", "--precision", "fp32", "--record", "r.jsonl", FAULTY, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (plain, "")
    record = read(tmp_path / "r.jsonl")
    assert len(record.steps) == 12
    assert record.end["status"] == "ok"
    assert record.losses[-1] == float(plain.split()[1])


def test_the_programs_own_options_and_amp(tmp_path: Path) -> None:
    done = halfstep(
        "run",
        "--precision",
        "fp32",
        "--steps",
        "5",
        "--record",
        "r",
        AMP,
        "--precision",
        "mine",
        cwd=tmp_path,
    )
    record = read(tmp_path / "r")
    assert done.returncode == 0
    assert len(record.steps) == 5
    assert record.own_amp == ["GradScaler", "autocast"]
    assert record.sample["matmul_flops"].keys() == {"fp32"}
    as_is = halfstep("run", "--precision", "as-is", AMP, "--precision", "mine")
    assert as_is.stdout == python(AMP, "--precision", "mine").stdout


def test_auto_says_what_it_chose_and_why() -> None:
    done = halfstep("run", FAULTY)
    assert re.match(r"halfstep: precision (bf16|fp16|fp32) \(.+\)\n", done.stderr)


def test_steps_are_counted_and_memory_is_told(tmp_path: Path) -> None:
    """12 steps of Linear(8, 1) on 32 samples: forward 2*32*8 FLOPs, the weight's gradient as many; 9 fp32 weights."""
    halfstep("run", "--precision", "bf16", "--record", "r", FAULTY, cwd=tmp_path)
    sample = read(tmp_path / "r").sample
    assert sample["matmul_flops"] == {"bf16": 2 * 2 * 32 * 8}
    assert sample["memory"]["weights"] == sample["memory"]["gradients"] == 36
    assert sample["memory"]["optimizer"] == 0
    assert sample["samples"] == 32


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--precision", "fp17", FAULTY],
            "Unknown precision 'fp17'; choose one of as-is, fp32, tf32, bf16, fp16",
        ),
        (["none.py"], "none.py"),
        (
            ["--precision", "fp16:loss_scale=3", FAULTY],
            "loss_scale is 3; it must be a power of two, for example 2 or 4.",
        ),
        (["--record", "/proc/none/r", FAULTY], "Cannot write the record '/proc/none/r'"),
        (["--steps", "0", FAULTY], "0 is not in the range 1<=x<="),
        ([], "Missing argument 'PROGRAM'"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = halfstep("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_precision_that_the_hardware_lacks_is_refused(tmp_path: Path) -> None:
    done = halfstep(
        "run", "--precision", "tf32", "--record", "r", FAULTY, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 2
    assert done.stderr == (
        "halfstep: Precision tf32 cannot run here: a CPU has no TF32 units; "
        "--emulate rounds to it inside fp32 tensors.\n"
    )
    assert read(tmp_path / "r").end["status"] == "unsupported"


def test_a_pattern_that_matches_nothing_ends_the_run(tmp_path: Path) -> None:
    done = halfstep("run", "--precision", "bf16:keep=lm_head", AMP)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "halfstep: keep=lm_head matches no module of this program; its modules are 0, 1, 2.\n"
    )


def test_seeds_are_shifted(plain: str) -> None:
    shifted = {
        seed: halfstep("run", "--precision", "fp32", "--seed", seed, FAULTY).stdout for seed in ("0", "1")
    }
    assert shifted["0"] == plain
    assert shifted["1"] != plain


def test_what_was_recorded_survives_sigkill(tmp_path: Path) -> None:
    done = halfstep("run", "--precision", "fp32", "--record", "r", FAULTY, "sigkill", cwd=tmp_path)
    record = read(tmp_path / "r")
    assert done.returncode == -signal.SIGKILL
    assert len(record.steps) == 7
    assert record.end == {}


def test_sigterm_ends_the_program_as_it_would_python(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "halfstep", "run", "--precision", "fp32", "--record", "r", FAULTY, "hang"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    ) as child:
        while not (tmp_path / "r").exists() or len(read(tmp_path / "r").steps) < 7:
            time.sleep(0.05)
            assert child.poll() is None
        child.terminate()
        assert child.wait(30) == -signal.SIGTERM
    assert read(tmp_path / "r").end["status"] == "interrupted"


def test_a_precision_that_could_not_be_put_into_force_is_said(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print(1)\n")
    done = halfstep("run", "--precision", "bf16", "s.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1\n", 0)
    assert (
        done.stderr
        == "halfstep: the program did not import PyTorch or Keras: precision bf16 was not put into force\n"
    )
    done = halfstep("run", "--precision", "bf16", FAULTY, "no_training")
    assert done.stderr.startswith(
        "halfstep: the program ended without an optimizer step; precision bf16 was in force"
    )


def test_an_error_that_the_format_causes_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.enc = torch.nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        return torch.mm(self.enc(x).detach(), x, out=torch.empty(4, 4))\n"
        "Net()(torch.ones(4, 4))\n"
    )
    done = halfstep("run", "--precision", "bf16", "s.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "halfstep: bf16 causes it: a 16-bit result is written into an fp32 tensor at s.py:7; leave out=... out, or "
        "write out.copy_(...), or run with bf16:keep=enc.\n"
    )


def test_the_last_words_are_of_what_ran(tmp_path: Path) -> None:
    """A program in fp64 stays so in every precision, fp32 too."""
    (tmp_path / "s.py").write_text(
        "import torch\n"
        "torch.set_default_dtype(torch.float64)\n"
        "net = torch.nn.Linear(4, 4)\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "for _ in range(3): optimizer.step(lambda: net(torch.ones(2, 4)).sum().backward())\n"
    )
    for record in ([], ["--record", "r"]):
        done = halfstep("run", "--precision", "fp32", *record, "s.py", cwd=tmp_path)
        assert done.stderr == "halfstep: ran as fp64, weights fp64; fp32 was asked for: 3 steps\n"
    done = halfstep("run", "--precision", "bf16", "--steps", "1", "s.py", cwd=tmp_path)
    said = "precision bf16 was in force, weights fp64; fp32 weights were asked for"
    assert done.stderr == f"halfstep: {said}: 1 step\n"


def test_the_last_words_are_the_same_without_a_record(tmp_path: Path) -> None:
    """A program that profiles itself has the only profiler there can be; one that ends early is counted no more."""
    (tmp_path / "s.py").write_text(
        "import torch, sys, contextlib\n"
        "net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "with torch.profiler.profile() if 'own' in sys.argv else contextlib.nullcontext():\n"
        "    for step in range(4):\n"
        "        optimizer.zero_grad(); net(torch.ones(2, 8)).square().mean().backward(); optimizer.step()\n"
        "        if 'early' in sys.argv and step == 0: sys.exit(0)\n"
    )

    def said(*options: str) -> str:
        done = halfstep("run", "--precision", "bf16", "--products", "fp32", *options, cwd=tmp_path)
        assert done.returncode == 0
        return next(line for line in reversed(done.stderr.splitlines()) if line.startswith("halfstep: "))

    assert said("s.py") == "halfstep: ran as bf16, products in fp32 units: 4 steps"
    assert said("s.py", "early") == "halfstep: precision bf16 was in force: 1 step"
    assert said("s.py", "own") == said("--record", "r", "s.py", "own")


@pytest.mark.parametrize("options", [("as-is",), ("bf16", "--products", "native")])
def test_products_that_pytorch_computes_in_software_are_told(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "s.py").write_text(
        "import torch\n"
        "net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))\n"
        "optimizer = torch.optim.SGD(net.parameters(), 0.1)\n"
        "for step in range(3):\n"
        "    with torch.autocast('cpu', torch.bfloat16):\n"
        "        loss = net(torch.ones(2, 8)).square().mean()\n"
        "    optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
    )
    halfstep("run", "--precision", *options, "--record", "r", "s.py", cwd=tmp_path)
    software = ", PyTorch's own products in software" * capabilities.in_software("bf16", "cpu")
    assert words(Ran.of(read(tmp_path / "r"))) == f"bf16{software}"


def test_training_in_processes_that_the_program_forks_is_said(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import torch, torch.multiprocessing as mp\n"
        "def train():\n"
        "    w = torch.nn.Parameter(torch.ones(2, 2))\n"
        "    torch.optim.SGD([w], lr=0.1).step((w @ w).sum().backward)\n"
        "if __name__ == '__main__':\n"
        "    p = mp.get_context('fork').Process(target=train)\n"
        "    p.start(); p.join(); print(p.exitcode)\n"
    )
    done = halfstep("run", "--precision", "bf16", "s.py", cwd=tmp_path)
    assert done.stdout == "0\n"
    start = "halfstep: the program ended without an optimizer step in its first process; "
    said = "those that it forked are in the recipe, but not in the record"
    assert done.stderr.startswith(f"{start}{said}; precision bf16 was in force")


ENABLED = "import halfstep; halfstep.enable({arguments})\n"


def test_enable_does_what_run_does(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(ENABLED.format(arguments='"bf16", record="r"') + Path(FAULTY).read_text())
    done = python(str(script), cwd=tmp_path)
    assert done.stdout == halfstep("run", "--precision", "bf16", FAULTY).stdout
    assert read(tmp_path / "r").takeover["ran_as"].startswith("bf16")


def test_an_enable_of_the_program_yields_to_the_command(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(ENABLED.format(arguments='"bf16", steps=3') + Path(FAULTY).read_text())
    done = halfstep("run", "--precision", "fp32", "--record", "r", str(script), cwd=tmp_path)
    assert (done.stdout, done.returncode) == (python(FAULTY).stdout, 0)
    assert done.stderr == "halfstep: the program's own halfstep.enable('bf16') yields to --precision fp32\n"
    record = read(tmp_path / "r")
    assert record.takeover["ran_as"] == "fp32"
    assert record.own_asks == {"halfstep.enable": "bf16"}


@pytest.mark.parametrize("before", ["", "import torch; "])
def test_as_is_is_what_the_program_enables(before: str, tmp_path: Path) -> None:
    """Bit for bit what python prints, also where PyTorch was taken over before the program said what it wants."""
    script = tmp_path / "s.py"
    script.write_text(
        before
        + ENABLED.format(arguments=f'"bf16", steps=7, record="{tmp_path}/own"')
        + Path(FAULTY).read_text()
    )
    plain = python(str(script))
    done = halfstep("run", "--precision", "as-is", "--record", "r", str(script), cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (plain.stdout, plain.stderr, 0)
    record = read(tmp_path / "r")
    assert record.takeover["ran_as"].startswith("bf16")
    assert len(record.steps) == 7


def test_a_program_that_enables_halfstep_can_be_compared(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(ENABLED.format(arguments='"bf16"') + Path(FAULTY).read_text())
    halfstep("compare", "--json", "c.json", str(script), cwd=tmp_path)
    trials = json.loads((tmp_path / "c.json").read_text())["trials"]
    assert {trial["precision"]: trial["status"] for trial in trials}["as-is"] == "ok"
    ran_as = {trial["precision"]: trial["ran_as"] for trial in trials}
    assert ran_as["as-is"] == ran_as["bf16"]
    assert ran_as["fp32"] == "fp32"


def test_an_unknown_precision_of_the_programs_is_an_error_under_the_command_too(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(ENABLED.format(arguments='"fp17"'))
    done = halfstep("run", "--precision", "fp32", str(script))
    assert done.returncode == 1
    assert "UsageError: Unknown precision 'fp17'" in done.stderr


def test_a_program_that_changes_its_precision_yields_to_the_command(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        2 * ENABLED.format(arguments='"bf16"')
        + "halfstep.disable()\nwith halfstep.precision('fp16'):\n"
        + "".join(f"    {line}\n" for line in Path(FAULTY).read_text().splitlines())
    )
    done = halfstep("run", "--precision", "fp32", str(script))
    assert (done.stdout, done.returncode) == (python(FAULTY).stdout, 0)
    assert done.stderr.splitlines() == [
        f"halfstep: the program's own halfstep.{call} yields to --precision fp32"
        for call in ("enable('bf16')", "disable()", "precision('fp16')")
    ]


@pytest.mark.parametrize("call", ["enable('fp16')", "disable()", "precision('fp16').__enter__()"])
def test_as_is_a_record_is_of_one_precision(call: str, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(ENABLED.format(arguments='"bf16"') + f"halfstep.{call}\n")
    done = halfstep("run", "--precision", "as-is", str(script))
    assert done.returncode == 2
    assert done.stderr == (
        f"halfstep: The program changes its precision by halfstep.{call.removesuffix('.__enter__()')}, and a record is "
        "of one precision; run it with python, or name a precision with --precision.\n"
    )


def test_log_and_skipped_steps(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    more = "import halfstep\nhalfstep.log(accuracy=0.5)\nprint(halfstep.skipped_steps())\n"
    script.write_text(Path(FAULTY).read_text() + more)
    done = halfstep(
        "run", "--precision", "fp16:init_scale=16777216", "--record", "r", str(script), cwd=tmp_path
    )
    skipped = int(done.stdout.splitlines()[-1])
    record = read(tmp_path / "r")
    assert skipped == record.end["skipped_steps"] == sum(step["skipped"] for step in record.steps)
    assert record.logged == {"accuracy": [(12, 0.5)]}
    assert python(str(script)).stdout.splitlines()[-1] == "0", (
        "without halfstep in force the lines do nothing"
    )


def test_the_core_imports_no_framework() -> None:
    code = "import sys, halfstep, halfstep.cli, halfstep.cli.compare, halfstep.session.session; print(sorted(m for m in ('torch', 'numpy', 'plotly', 'keras', 'rich') if m in sys.modules))"
    assert json.loads(python("-c", code).stdout.replace("'", '"')) == []


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_program_may_end_before_or_within_the_steps_that_are_looked_at(tmp_path: Path, steps: int) -> None:
    script = tmp_path / "short.py"
    script.write_text(
        "import torch\nm = torch.nn.Linear(4, 1)\no = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        f"for _ in range({steps}):\n    m(torch.ones(8, 4)).mean().backward(); o.step()\n"
    )
    done = halfstep("run", "--precision", "fp32", "--record", str(tmp_path / "r"), str(script))
    assert (done.returncode, done.stderr) == (0, "")
    record = read(tmp_path / "r")
    assert len(record.steps) == steps
    assert ("time_shares" in record.sample) == (steps == 3)
    if steps == 3:
        assert sum(record.sample["time_shares"].values()) == pytest.approx(1)


def test_steps_that_were_skipped_before_a_resume_are_none_of_this_runs(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(
        "import torch, halfstep\nnet = torch.nn.Linear(4, 1)\no = torch.optim.SGD([net.weight], lr=0.1)\n"
        "b = torch.optim.SGD([net.bias], lr=0.1)\n"
        "def step(x):\n    net.zero_grad(); net(x).square().mean().backward(); o.step(); b.step()\n"
        "step(torch.ones(2, 4))\nstate = o.state_dict()\nstate['halfstep']['skipped_steps'] = 7\n"
        "o.load_state_dict(state)\nstep(torch.full((2, 4), torch.inf))\nstep(torch.ones(2, 4))\n"
        "print(halfstep.skipped_steps())\n"
    )
    done = halfstep("run", "--precision", "fp16", "--record", "r", "p.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "9\n"), done.stderr
    assert "3 steps, 1 of them skipped and 1 step of other optimizers skipped (" in done.stderr
    assert read(tmp_path / "r").end["skipped_steps"] == 1
