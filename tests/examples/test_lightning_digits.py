from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytestmark = pytest.mark.long

NAME = "lightning_digits.py"


def accuracies(output: str) -> list[float]:
    return [float(line.rsplit("accuracy ")[1].rstrip("%")) / 100 for line in output.splitlines()]


def test_learns_more_than_the_most_common_digit_and_resumes_where_it_was(run_example, tmp_path: Path):
    whole = run_example(NAME, "--epochs", "2").splitlines()
    assert accuracies("\n".join(whole))[-1] > 0.5
    again = run_example(NAME, "--epochs", "2", "--checkpoint", str(tmp_path / "digits.ckpt")).splitlines()
    assert again == whole
    assert run_example(NAME, "--epochs", "2", "--checkpoint", str(tmp_path / "digits.ckpt")) == ""
