"""What a program counts frames for names the line that it names under python, and so does an uncaught exception."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..cli.running import PROGRAMS, halfstep, python

PROGRAM = str(PROGRAMS / "counted_frames.py")

#: a frame of PyTorch's which a call inside of a model does without
_LEFT_OUT = re.compile(r"  File .*, in _wrapped_call_impl\n.*\n.*\n")


@pytest.fixture(scope="module")
def plain() -> str:
    done = python(PROGRAM)
    assert done.returncode == 1
    assert done.stderr.count("counted_frames.py") > 100
    return _LEFT_OUT.sub("", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [pytest.param("as-is", marks=pytest.mark.long), "fp32", "fp16:loss_scale=1024:keep=part.layer"],
)
def test_warnings_logs_and_the_traceback_are_pythons(plain: str, recipe: str, tmp_path: Path) -> None:
    done = halfstep("run", "--precision", recipe, "--record", str(tmp_path / "r.jsonl"), PROGRAM)
    said = [line for line in done.stderr.splitlines() if not line.startswith("halfstep: ")]
    assert _LEFT_OUT.sub("", "\n".join([*said, ""])) == plain
