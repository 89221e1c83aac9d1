"""Bad input gets one sentence on stderr and exit code 2; nothing is run and nothing is shown raw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from halfstep import cli
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.request import MOST, Request, check_owner, save, stored
from halfstep.errors import UsageError
from halfstep.options import DEFAULTS

from .running import halfstep


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('ran')\n")
    return tmp_path / "train.py"


COMPARE = ("compare", "--precisions", "fp32")
MISTAKES = [
    (*COMPARE, "--time-limit", "nan"), (*COMPARE, "--time-limit", "inf"), ("diagnose", "--time-limit", "nan"),
    (*COMPARE, "--launch", "  "), ("diagnose", "--launch", " "), (*COMPARE, "--out", ""), (*COMPARE, "--json", ""),
    (*COMPARE, "--out", "x" * 300), (*COMPARE, "--repeats", "1000000000"), (*COMPARE, "--seeds", "1000000000"),
    (*COMPARE, "--fit-batch", "--batch", "--memory-limit", "9" * 400), (*COMPARE, "--memory-limit", ""),
    *((*COMPARE, name, "") for name in ("--launch", "--parallel", "--on", "--resources")), ("diagnose", "--launch", ""),
    (*COMPARE, "--parallel", "1"), (*COMPARE, "--parallel", "many"), (*COMPARE, "--track", "paper"), (*COMPARE, "--track", ""),
    ("compare", "--precisions", "fp16:growth_interval=²"), ("compare", "--precisions", "fp16:growth_interval=" + "9" * 5000),
    ("run", "--seed", "-1"), ("run", "--seed", str(2**32)), ("run", "--record", ""), ("run", "--record", "train.py"),
    ("run", "--record", "./link"), ("run", "--record", "data.json"), ("compare", "--resume", ""), ("run", "--steps", str(2**70)), (*COMPARE, "--steps", str(2**70)),
    ("diagnose", "--precision", "fp16", "--steps", str(2**70)), ("run", "--precision", "\x1b[31mred"), ("diagnose", "--precision", "x" * 300),
]  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda a: " ".join(a)[:60])
def test_a_mistake_is_a_sentence(
    program: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("link").symlink_to("train.py")
    Path("data.json").write_text('{"images": 3}')
    monkeypatch.setattr(sys, "argv", ["halfstep", *arguments, "train.py"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.rstrip().endswith(".")
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert program.read_text() == "print('ran')\n"
    assert Path("data.json").read_text() == '{"images": 3}'


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_a_program_that_can_be_read_only_once_is_refused(
    command: str, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    monkeypatch.setattr(
        sys, "argv", ["halfstep", command, "--precision" + "s" * (command == "compare"), "bf16", "pipe"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "'pipe' is no file, and can be read only once" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_report_needs_a_file_with_a_name(
    option: str, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["halfstep", "report", option, "", "."])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"{option} was given no file; name one" in capsys.readouterr().err


def test_an_empty_rank_is_none(program: Path) -> None:
    done = halfstep(
        "run", "--precision", "as-is", "train.py", cwd=program.parent, env={"RANK": "", "WORLD_SIZE": ""}
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


@pytest.mark.parametrize("stdout", ["closed", "full"])
def test_a_pipe_that_is_closed_or_full_is_no_traceback(stdout: str) -> None:
    command = [sys.executable, "-m", "halfstep", "formats"]
    if stdout == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (
            2,
            "halfstep: The output cannot be used: No space left on device.\n",
        )
        return
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "full"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_program_and_its_trials_run_although_nobody_can_be_told(program: Path, closed: bool) -> None:
    words = ["compare", "--precisions", "fp32", "--out", "o"] if not closed else ["run"]
    ours = " ".join(
        [sys.executable, "-m", "halfstep", *words, "train.py", "2>&-" if closed else "2>/dev/full"]
    )
    done = subprocess.run(ours, shell=True, capture_output=True, text=True, check=False)
    if closed:  # not even halfstep's words in its place
        assert (done.returncode, done.stdout) == (0, "ran\n")
    else:
        assert (program.parent / "o" / "report.html").exists()
        assert (program.parent / "o" / "trials" / "fp32-seed0-repeat0.log").read_text() == "ran\n"
        assert done.stdout.startswith("precision ")


def request_in(folder: Path) -> Request:
    return Request("train.py", (), False, ("fp32",), DEFAULTS, 1, 1, None, "", folder)


DAMAGED = [
    ("seeds", 2**31), ("seeds", 0), ("repeats", "1"), ("repeats", MOST + 1), ("program", 3), ("arguments", [1]),
    ("arguments", "abc"), ("module", 1), ("launch", None), ("recipes", [None]), ("recipes", []), ("recipes", ["nope"]), ("recipes", ["\x1b[2J"]), ("time_limit", -1), ("steps", 1.5),
    ("products", []), ("prefer", "x"), ("as_on", "tpu"), ("tolerance", [1]), ("tolerance", "\x1b[31mx"), ("fit", {"a": 1}),
    ("memory_limit", "1"), ("emulate", None),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), DAMAGED, ids=repr)
def test_a_damaged_request_is_a_sentence(program: Path, field: str, value: object) -> None:
    request = request_in(program.parent / "o")
    save(request, Environment())
    assert stored(request.folder).request == request
    path = request.folder / "request.json"
    raw = json.loads(path.read_text())
    raw["request"][field] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match="is not a request of this version") as told:
        stored(request.folder)
    assert "\x1b" not in str(told.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"\xff", b"[" * 99999, b'{"a":' + b"1" * 5000 + b"}"])
def test_a_request_that_is_no_object_is_a_sentence(program: Path, text: bytes) -> None:
    (program.parent / "request.json").write_bytes(text)
    with pytest.raises(UsageError, match="is not a request of this version"):
        stored(program.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_folder_is_not_gone_on_with(program: Path) -> None:
    """It would run what that user wrote into it."""
    request = request_in(program.parent / "o")
    save(request, Environment())
    check_owner(request.folder)
    os.chown(request.folder / "request.json", 12345, -1)
    done = halfstep("compare", "--resume", "o", cwd=program.parent)
    assert done.returncode == 2
    assert (
        "belongs to another user, and says which program is run; start a comparison of your own"
        in done.stderr
    )
