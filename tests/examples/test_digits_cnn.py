from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

pytestmark = pytest.mark.long

NAME = "digits_cnn.py"
SMALL = ("--epochs", "4", "--width", "4")


def linear_accuracy() -> float:
    """A linear model's on the example's own split."""
    x, y = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(x / 16, y, test_size=0.2, stratify=y, random_state=0)
    return LogisticRegression(max_iter=1000).fit(x_train, y_train).score(x_val, y_val)


def test_beats_a_linear_model(run_example):
    output = run_example(NAME)
    losses = [float(loss) for loss in re.findall(r"^epoch .* loss (\S+)", output, re.MULTILINE)]
    accuracy = float(output.splitlines()[-1].rsplit("accuracy ")[1].rstrip("%")) / 100
    assert accuracy > max(linear_accuracy(), 0.98)
    assert losses[-1] < losses[0] / 20


def test_the_same_seed_prints_the_same_and_another_does_not(run_example):
    arguments = (NAME, "--epochs", "1", "--width", "4")
    first = run_example(*arguments, "--seed", "7")
    assert run_example(*arguments, "--seed", "7") == first
    assert run_example(*arguments, "--seed", "8") != first


def test_a_killed_run_resumes_bit_for_bit(run_example, kill_example, tmp_path: Path):
    arguments = (NAME, *SMALL, "--checkpoint")
    whole = run_example(*arguments, str(tmp_path / "whole.pt")).splitlines()
    kill_example("epoch   2", *arguments, str(tmp_path / "cut.pt"))
    resumed = run_example(*arguments, str(tmp_path / "cut.pt")).splitlines()

    assert resumed[1].startswith(f"resumed from {tmp_path / 'cut.pt'} after epoch ")
    assert resumed[2:] == whole[-len(resumed[2:]) :]
    expected, actual = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "cut.pt")
    assert actual["epoch"] == expected["epoch"] == 4
    for name, weight in expected["model"].items():
        assert torch.equal(actual["model"][name], weight), name
    assert actual["scheduler"] == expected["scheduler"]


def test_help(run_example):
    shown = run_example(NAME, "--help")
    options = "--epochs --batch-size --lr --width --device --seed --checkpoint"
    assert all(option in shown for option in options.split())
