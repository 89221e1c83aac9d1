from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from halfstep.words.stderr import console_file, tell


class Broken(io.StringIO):
    """As a full disk, or a pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stderr", [None, Broken()], ids=["closed", "full"])
def test_what_nobody_can_be_told_is_dropped(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    tell("a word")
    console = Console(file=console_file())
    console.print("a line")
    assert not console.is_terminal
    assert capsys.readouterr().out == ""


def test_what_is_told_is_safe_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    tell("red \x1b[31mor\x07 not\nat all")
    Console(file=console_file()).print("a line")
    assert capsys.readouterr().err == "halfstep: red or not\nat all\na line\n"
