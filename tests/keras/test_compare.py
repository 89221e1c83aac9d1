"""``halfstep compare`` on the example, from trials to page."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from ..cli.running import PROGRAMS, halfstep
from .conftest import environment, skip_without


@pytest.mark.slow
def test_products_of_tensorflow_itself_leave_nothing_to_choose(tmp_path: Path) -> None:
    """``tf.matmul`` on variables belongs to no layer, so every precision runs it in fp32: the runs are identical."""
    skip_without("keras", "tensorflow")
    done = halfstep(
        *(
            "compare",
            "--precisions",
            "fp32,bf16",
            "--json",
            "c.json",
            str(PROGRAMS / "keras" / "raw_products.py"),
        ),
        cwd=tmp_path,
        env=environment("tensorflow"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    fp32, bf16 = found["trials"]
    assert len(fp32["losses"]) == 12
    assert bf16["losses"] == fp32["losses"]
    assert (fp32["ran_as"], bf16["ran_as"]) == ("fp32", "fp32; bf16 was asked for")
    advice = found["recommendation"]
    assert (advice["rule"], advice["precision"]) == ("ran_the_same", "fp32")
    assert advice["text"] == (
        "Stay with fp32: fp32 and bf16 ran the same, because the program makes its products where the precision "
        "does not reach."
    )


@pytest.mark.long
def test_the_example_is_compared_end_to_end(example: str, tmp_path: Path) -> None:
    skip_without("keras", "torch")
    # With 4 channels PyTorch 2.13 itself aborts in a backward pass on some CPUs, also of plain python.
    done = halfstep(
        *("compare", "--precisions", "fp32,bf16,fp16", "--steps", "30", "--out", "out", "--json", "c.json"),
        *(example, "--width", "8", "--epochs", "2"),
        cwd=tmp_path,
        env=environment("torch"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert [(t["precision"], t["status"], t["steps"]) for t in found["trials"]] == [
        ("fp32", "ok", 30),
        ("bf16", "ok", 30),
        ("fp16", "ok", 30),
    ]
    for trial in found["trials"]:
        assert trial["framework"] == "keras"
        assert trial["matmul_share"][trial["precision"]] > 0.9
        assert trial["memory"].keys() >= {"weights", "gradients", "optimizer"}
        assert set(trial["logged"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert trial["warnings"] == []
        assert trial["time_shares_absent"] == "halfstep profiles a step of PyTorch's, not one of Keras's"
        assert list(trial["memory_parts_absent"]) == ["activations"]
        page = html.unescape((tmp_path / "out" / "report.html").read_text())
        assert trial["time_shares_absent"] in page
        assert trial["memory_parts_absent"]["activations"] in page
    fp16 = found["trials"][2]
    assert fp16["loss_scale"][0][1] == 65536
    for precision in ("fp32", "bf16", "fp16"):
        assert precision in done.stdout
