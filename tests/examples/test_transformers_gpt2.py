from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytestmark = pytest.mark.long

NAME = "transformers_gpt2.py"
SMALL = ("--batch-size", "4", "--width", "64", "--layers", "1", "--eval-interval", "10", "--lr", "5e-3")


def test_learns_saves_and_resumes_the_same(run_example, tmp_path: Path):
    whole = run_example(NAME, "--steps", "20", *SMALL, "--checkpoint", str(tmp_path / "gpt2"))
    losses = [float(loss) for loss in re.findall(r"validation loss (\S+)", whole)]
    assert losses[-1] < losses[0] < math.log(256), "less than every byte alike"
    for path in (tmp_path / "gpt2" / "checkpoint-20").iterdir():
        path.unlink()
    (tmp_path / "gpt2" / "checkpoint-20").rmdir()
    resumed = run_example(NAME, "--steps", "20", *SMALL, "--checkpoint", str(tmp_path / "gpt2"))
    assert resumed.splitlines()[1].startswith("resumed from ")
    assert resumed.splitlines()[2:] == whole.splitlines()[-2:]
