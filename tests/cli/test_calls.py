"""``halfstep.compare`` and ``halfstep.diagnose``: the commands, called from Python."""

from __future__ import annotations

import asyncio
import inspect
import io
import pkgutil
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import psutil
import pytest

import halfstep
from halfstep.cli import compare as comparing
from halfstep.cli import diagnose as diagnosing
from halfstep.cli import main
from halfstep.comparison.options import ComparisonOptions
from halfstep.diagnosis.options import DiagnosisOptions
from halfstep.options import RunOptions
from halfstep.report.loading import Comparison
from halfstep.trials.process import MARK
from halfstep.trials.progress import Progress

from .running import PROGRAMS

FAULTY = PROGRAMS / "faulty.py"
ROOT = PROGRAMS.parents[1]
CALLS = [
    (comparing.compare, halfstep.compare, ComparisonOptions),
    (diagnosing.diagnose, halfstep.diagnose, DiagnosisOptions),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a program that takes no time, as it trains nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "idle.py").write_text("print('idle')\n")
    return tmp_path


@pytest.mark.parametrize(("command", "call", "kind"), CALLS, ids=["compare", "diagnose"])
def test_each_option_of_the_command_is_a_keyword_and_the_other_way_round(
    command: click.Command, call: Callable[..., Any], kind: type[RunOptions]
) -> None:
    parameters = inspect.signature(call).parameters
    assert (
        {p.name for p in command.params} | {"progress"} == parameters.keys() == {f.name for f in fields(kind)}
    )
    spelled = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert spelled == {f"--{f.name.replace('_', '-')}" for f in fields(kind) if f.metadata} | {"-m"} | (
        {"--steps"} & spelled
    )
    context = command.make_context(command.name, ["train.py"])
    defaults = {name: parameters[name].default for name in context.params if name not in ("program", "args")}
    assert {name: context.params[name] for name in defaults} == defaults


def test_a_comparison_is_what_load_reads_and_nothing_is_printed_or_written_elsewhere(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Progress] = []
    found = halfstep.compare(
        FAULTY, args=["none"], precisions=["fp32", "bf16"], steps=3, out=folder / "out", progress=told.append
    )
    assert type(found) is type(halfstep.load(folder / "out")) is Comparison
    assert found.data == halfstep.load(folder / "out").data
    assert [(t["precision"], t["status"], t["steps"]) for t in found.trials] == [
        ("fp32", "ok", 3),
        ("bf16", "ok", 3),
    ]
    assert found.data["program"]["command"] == [str(FAULTY), "none"]
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == ["idle.py", "out"]
    assert [t.what for t in told if t.what != "step"] == ["plan", "begin", "end"] * 2
    last = [t for t in told if t.what == "step" and t.trial == "bf16-seed0-repeat0"][-1]
    assert (last.trials, last.step, last.steps, last.loss) == (2, 3, 3, found.trials[1]["losses"][-1])
    assert [(t.trial, t.status) for t in told if t.what == "end"] == [
        ("fp32-seed0-repeat0", "ok"), ("bf16-seed0-repeat0", "ok")
    ]  # fmt: skip
    more = halfstep.compare(resume=folder / "out", repeats=2)
    assert [t["repeat"] for t in more.trials] == [0, 0, 1, 1]
    assert more.trials[0]["losses"] == found.trials[0]["losses"]


def test_a_diagnosis_is_what_load_reads(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = halfstep.diagnose(FAULTY, precision="fp16", steps=3, out="out")
    assert found.data == halfstep.load("out", "diagnosis").data
    assert found.data["precision"] == "fp16"
    assert found.data["steps"] == 3
    assert [layer["type"] for layer in found.layers] == ["Linear"]
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == ["idle.py", "out"]
    with pytest.raises(halfstep.HalfstepError, match="No comparison in 'out'"):
        halfstep.load("out")


def test_without_a_folder_a_temporary_one_lives_as_long_as_the_value(folder: Path) -> None:
    found = halfstep.compare("idle.py", precisions="fp32")
    place = found.folder
    assert place.parent != folder
    assert (place / found.trials[0]["log"]).read_text() == "idle\n"
    del found
    assert not place.exists()
    assert [path.name for path in folder.iterdir()] == ["idle.py"]


def test_what_an_error_points_to_is_kept(folder: Path) -> None:
    with pytest.raises(halfstep.HalfstepError, match="made no optimizer step in fp16") as raised:
        halfstep.diagnose("idle.py")
    log = Path(str(raised.value).split("see its output in '")[1].split("'")[0])
    assert log.read_text().startswith("idle\n")


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"seeds": 0}, ["--seeds", "0"]),
    ({"repeats": 1.5}, ["--repeats", "1.5"]),
    ({"precisions": ["fp32", "fp33"]}, ["--precisions", "fp32,fp33"]),
    ({"precisions": ["fp32", "32"]}, ["--precisions", "fp32,32"]),
    ({"tolerance": [0.1, -1]}, ["--tolerance", "0.1", "--tolerance", "-1"]),
    ({"prefer": "luck"}, ["--prefer", "luck"]),
    ({"products": "none"}, ["--products", "none"]),
    ({"time_limit": float("inf")}, ["--time-limit", "inf"]),
    ({"memory_limit": 2**30}, ["--memory-limit", str(2**30)]),
    ({"launch": ["no such launcher"]}, ["--launch", "'no such launcher'"]),
    ({"out": ""}, ["--out", ""]),
    ({"resume": Path("gone")}, ["--resume", "gone"]),
    ({"steps": 2**70}, ["--steps", str(2**70)]),
    ({"parallel": 1}, ["--parallel", "1"]),
    ({"track": ["paper"]}, ["--track", "paper"]),
]


@pytest.mark.parametrize(("keywords", "words"), REFUSED, ids=lambda case: str(case)[:40])
def test_what_the_command_refuses_is_an_exception_with_its_sentence(
    folder: Path,
    keywords: dict[str, Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["halfstep", "compare", *words, "idle.py"])
    with pytest.raises(SystemExit):
        main()
    sentence = (
        capsys.readouterr().err.strip().splitlines()[-1].removeprefix("halfstep: ").removeprefix("Error: ")
    )
    with pytest.raises(halfstep.HalfstepError) as raised:
        halfstep.compare("idle.py", **keywords)
    assert str(raised.value) == sentence
    assert [path.name for path in folder.iterdir()] == ["idle.py"]


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        (
            {"sead": 3},
            r"halfstep.compare\(\): got an unexpected keyword argument 'sead'; allowed are program, steps",
        ),
        ({"args": "--lr 3"}, "args was given '--lr 3'; give a list of texts"),
        ({"args": [3]}, r"args was given \[3\]; give a list of texts"),
        ({"fresh": "no"}, "fresh was given 'no'; give True or False"),
        ({"seeds": True}, "seeds was given True; give a text, a number or a path"),
        ({"progress": 3}, "progress was given 3; give True, False or a function"),
        ({"args": None}, "args was given None; give a list of texts"),
        ({"args": b"--lr"}, "args was given b'--lr'; give a list of texts"),
        ({"args": ["a\0b"]}, r"args was given 'a\\x00b'; no command line can hold a null byte"),
        ({"out": "a\0b"}, r"out was given 'a\\x00b'; no command line can hold a null byte"),
        ({"out": b"out"}, "out was given b'out'; give a text, a number or a path"),
        (
            {"out": "a\ud800b"},
            r"out was given 'a\\ud800b'; no command line can hold a null byte or half a surrogate",
        ),
        ({"json": "a\0b"}, r"json was given 'a\\x00b'; no command line can hold a null byte"),
        (
            {"require": ["fp32: speed >= 1", b"fp32: speed >= 1"]},
            r"require was given b'fp32: speed >= 1'; give",
        ),
    ],
)
def test_what_only_python_can_say_wrongly_is_a_sentence_too(
    folder: Path, keywords: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(halfstep.HalfstepError, match=sentence):
        halfstep.compare("idle.py", **keywords)


def test_no_sentence_holds_an_escape_sequence(folder: Path) -> None:
    """Whoever shows the traceback of an exception shows its words as they are."""
    with pytest.raises(halfstep.HalfstepError, match=r"There is no file 'gone.py' in") as raised:
        halfstep.compare("\x1b[31mgone\x07\u202e.py")
    assert str(raised.value).isprintable()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
@pytest.mark.parametrize("option", ["json", "markdown"])
def test_a_file_that_cannot_be_written_at_the_end_loses_no_trial(folder: Path, option: str) -> None:
    with pytest.raises(halfstep.HalfstepError, match="Cannot write '/dev/full'") as raised:
        halfstep.compare("idle.py", precisions="fp32", **{option: "/dev/full"})
    kept = str(raised.value).split("the comparison is in '")[1].split("'")[0]
    assert halfstep.load(kept).trials[0]["status"] == "failed"
    shutil.rmtree(kept)


def test_a_diagnosis_that_cannot_be_kept_is_told_and_why(folder: Path) -> None:
    found = diagnosing._write({}, folder / "idle.py" / "diagnosis.json")
    assert str(found) == (
        f"Cannot write '{folder}/idle.py/diagnosis.json' (Not a directory); give --out a folder with room."
    )


def test_two_at_once_in_one_folder_are_one_that_runs_and_one_that_is_refused(folder: Path) -> None:
    """The second starts while the first trains."""
    (folder / "long.py").write_text("import time; time.sleep(30)")
    told: list[str] = []

    def second(progress: Progress) -> None:
        if progress.what == "begin":
            with pytest.raises(halfstep.HalfstepError) as raised:
                halfstep.compare("idle.py", precisions="fp32", out="out")
            told.append(str(raised.value))
            raise LookupError

    with pytest.raises(LookupError):
        halfstep.compare("long.py", precisions="fp32", out="out", progress=second)
    assert len(told) == 1
    assert "already holds a comparison" in told[0] or "Another halfstep is running in" in told[0]


def test_arguments_that_look_like_options_reach_the_program(folder: Path) -> None:
    (folder / "-odd name.py").write_text("import sys; print(sys.argv[1:])")
    found = halfstep.compare("-odd name.py", args=["--seeds", "7", "--", "a b"], precisions="fp32")
    assert (found.folder / found.trials[0]["log"]).read_text() == "['--seeds', '7', '--', 'a b']\n"


def test_progress_on_stderr_is_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", err := io.StringIO())
    halfstep.compare("idle.py", precisions="fp32", progress=True)
    first, last = err.getvalue().splitlines()
    assert first == "trial 1 of 1: fp32-seed0-repeat0"
    assert "fp32-seed0-repeat0: " in last


def test_an_exception_in_the_function_that_is_told_ends_the_trial(folder: Path) -> None:
    (folder / "long.py").write_text(
        "import torch, time\nw = torch.ones(2, requires_grad=True)\no = torch.optim.SGD([w])\n"
        "for _ in range(600):\n    w.sum().backward(); o.step(); time.sleep(0.1)\n"
    )

    def stop(progress: Progress) -> None:
        if progress.what == "step":
            raise LookupError(progress.trial)

    with pytest.raises(LookupError, match="fp32-seed0-repeat0"):
        halfstep.compare("long.py", precisions="fp32", progress=stop)
    assert not [p for p in psutil.Process().children(recursive=True) if "long.py" in p.cmdline()]


def test_it_works_from_a_thread_and_in_asyncio(folder: Path) -> None:
    def statuses() -> list[str]:
        return [trial["status"] for trial in halfstep.compare("idle.py", precisions="fp32").trials]

    async def both() -> list[list[str]]:
        return [statuses(), *await asyncio.gather(asyncio.to_thread(statuses), asyncio.to_thread(statuses))]

    assert asyncio.run(both()) == [["failed"]] * 3
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(statuses()))
    thread.start()
    thread.join()
    assert found == [["failed"]]


def test_a_script_needs_no_guard_and_a_trial_starts_no_trials(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import halfstep\nprint(halfstep.compare('idle.py', precisions='fp32').trials[0]['status'])\n"
    )
    (folder / "itself.py").write_text(
        "import halfstep\nprint(halfstep.compare(__file__, precisions='fp32').trials[0]['reason'])\n"
    )
    printed = [
        subprocess.run([sys.executable, name], capture_output=True, text=True, check=True, timeout=120).stdout
        for name in ("script.py", "itself.py")
    ]
    assert printed[0] == "failed\n"
    assert "A trial of a comparison or a diagnosis was about to start another one" in printed[1]


def test_a_trial_is_refused_trials_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    for call in (halfstep.compare, halfstep.diagnose):
        with pytest.raises(halfstep.HalfstepError, match="about to start another one"):
            call("idle.py")


def test_no_module_of_the_package_hides_a_public_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules(halfstep.__path__)}
    assert not modules & {*halfstep.__all__, "disable", "precision"}
    assert all(callable(getattr(halfstep, name)) or name == "__version__" for name in halfstep.__all__)


def test_the_functions_need_neither_a_framework_nor_the_wing_that_runs() -> None:
    code = (
        "import sys, halfstep; halfstep.compare; halfstep.diagnose; print(sorted(m for m in "
        "('torch', 'numpy', 'plotly', 'keras', 'rich', 'halfstep.session.session') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_callers_are_type_checked(folder: Path) -> None:
    (folder / "caller.py").write_text(
        "from pathlib import Path\nimport halfstep\n"
        "c = halfstep.compare('a.py', args=['--lr', '1'], precisions=['fp32'], seeds=5, out=Path('o'), prefer='memory')\n"
        "d = halfstep.diagnose(Path('a.py'), progress=lambda told: print(told.loss))\n"
        "reveal_type(c)\nreveal_type(d)\nreveal_type(halfstep.load('o', 'diagnosis'))\n"
        "halfstep.compare('a.py', seeds='five')\nhalfstep.compare('a.py', prefer='luck')\n"
        "halfstep.diagnose('a.py', seed=1)\nhalfstep.diagnose()\n"
    )
    # with the options and the cache of `make types`: only the caller is new
    options = ("--platform", sys.platform, "--cache-dir", f".mypy_cache/{sys.platform}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *options, str(folder / "caller.py")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    lines = [line[line.index("caller.py:") :] for line in done.stdout.splitlines() if "caller.py:" in line]
    kinds = [
        f'Revealed type is "halfstep.report.loading.{k}"' for k in ("Comparison", "Diagnosis", "Diagnosis")
    ]
    assert [line.split("note: ")[1] for line in lines if "Revealed" in line] == kinds
    wrong = {int(line.split(":")[1]) for line in lines if "error" in line}
    assert wrong == {8, 9, 10, 11}
