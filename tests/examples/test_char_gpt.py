from __future__ import annotations

import math
import re
import runpy
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAME = "char_gpt.py"
SMALL = ("--batch-size", "2", "--grad-accum", "2", "--eval-interval", "8")


def losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step +\d+  loss (\S+)$", output, re.MULTILINE)]


def validation_loss(output: str) -> float:
    return float(output.splitlines()[-1].removeprefix("validation loss "))


def test_learns_more_than_how_often_each_character_occurs(run_example):
    output = run_example(NAME, "--steps", "60", "--batch-size", "8")
    text = bytes(runpy.run_path(str(EXAMPLES / NAME), run_name="char_gpt")["load_text"]().tolist())
    shares = [count / len(text) for count in Counter(text).values()]
    entropy = -sum(share * math.log(share) for share in shares)  # the least loss of a model without context
    assert losses(output)[0] == pytest.approx(math.log(128), abs=0.4)  # at first: every character alike
    assert validation_loss(output) < entropy - 0.3


def test_the_same_seed_prints_the_same_and_another_does_not(run_example):
    arguments = (NAME, "--steps", "4", *SMALL)
    first = run_example(*arguments, "--seed", "7")
    assert run_example(*arguments, "--seed", "7") == first
    assert run_example(*arguments, "--seed", "8") != first


def test_a_killed_run_resumes_bit_for_bit(run_example, kill_example, tmp_path: Path):
    arguments = (NAME, "--steps", "24", *SMALL, "--checkpoint")
    whole = run_example(*arguments, str(tmp_path / "whole.pt")).splitlines()
    kill_example("step     8  validation", *arguments, str(tmp_path / "cut.pt"))
    resumed = run_example(*arguments, str(tmp_path / "cut.pt")).splitlines()

    assert resumed[1].startswith(f"resumed from {tmp_path / 'cut.pt'} after step ")
    assert resumed[2:] == whole[-len(resumed[2:]) :]
    expected, actual = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "cut.pt")
    assert actual["step"] == expected["step"] == 24
    for name, weight in expected["model"].items():
        assert torch.equal(actual["model"][name], weight), name
    for index, state in expected["optimizer"]["state"].items():
        assert all(
            torch.equal(actual["optimizer"]["state"][index][key], value) for key, value in state.items()
        )


def test_gpt2_has_gpt2s_number_of_parameters():
    example = runpy.run_path(str(EXAMPLES / NAME), run_name="char_gpt")
    with torch.device("meta"):
        model = example["GPT"](example["PRESETS"]["gpt2"])
    published, published_vocab = 124_439_808, 50257
    padding = (example["PRESETS"]["gpt2"].vocab_size - published_vocab) * 768
    assert sum(p.numel() for p in model.parameters()) == published + padding


@pytest.mark.skipif(
    not (shutil.which("gcc") or shutil.which("clang")), reason="torch.compile needs a C++ compiler"
)
def test_compiled_it_learns_the_same(run_example, environment, monkeypatch):
    arguments = (NAME, "--steps", "3", "--batch-size", "2")
    monkeypatch.setitem(environment, "PYTHONWARNINGS", "ignore")  # the compiler has some of its own
    compiled = validation_loss(run_example(*arguments, "--compile"))
    assert compiled == pytest.approx(validation_loss(run_example(*arguments)), abs=1e-3)


def test_help(run_example):
    shown = run_example(NAME, "--help")
    options = "--preset --device --compile --steps --batch-size --grad-accum --lr --seed --eval-interval --checkpoint"
    assert all(option in shown for option in options.split())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_an_ordinary_script(path: Path):
    text = path.read_text().lower()
    assert not re.search("halfstep|autocast|gradscaler|bfloat16|float16", text)
