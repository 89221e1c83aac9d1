"""The gallery of numerical failures: every planted fault is named; no healthy twin gets a finding.

Fault and twin run in this process, watched, in their precision and in fp32: importing PyTorch 60 times would take
two minutes.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from halfstep import codec
from halfstep.diagnosis import diagnose
from halfstep.options import RunOptions
from halfstep.precisions.recipes import parse
from halfstep.pytorch.takeover import Takeover
from halfstep.record import Record, Writer, read
from halfstep.report.words.diagnosis import worded
from halfstep.takeover.base import EnoughSteps, GradientsOverflow, Options

GALLERY = Path(__file__).parent.parent.parent / "programs" / "failures"


@dataclass(frozen=True)
class Planted:
    """What the diagnosis of a faulty program has to say first.

    Attributes:
        remedy: part of a remedy: a recipe, or words.
    """

    program: str
    precision: str
    kind: str
    where: str
    operation: str
    direction: str
    remedy: str
    fault: str = "precision"


FAULTS = [
    Planted("attention_logits", "fp16", "overflow", "attention", "bmm", "forward", "bf16"),
    Planted("tiny_gradients", "fp16:loss_scale=1", "underflow", "2", "", "backward", "fp16"),
    Planted("small_updates", "bf16-true", "lost_update", "0", "Adam", "step", "bf16"),
    Planted("own_16_bits", "as-is", "lost_update", "0", "Adam", "step", "fp32"),
    Planted("fp32_mask", "fp16", "overflow", "attention", "_to_copy", "forward", "fp16:keep=attention"),
    Planted("large_variance", "fp16", "overflow", "1", "mul", "forward", "fp16:keep=1"),
    Planted("adam_eps", "fp16-true", "epsilon_lost", "0", "Adam", "step", "fp16"),
    Planted("long_mean", "fp16", "overflow", "pool", "bmm", "forward", "fp16:keep=pool"),
    Planted("log_probability", "fp16", "domain_error", "entropy", "log", "forward", "fp16:keep=entropy"),
    Planted("sqrt_at_zero", "fp16", "domain_error", "distance", "div", "backward", "bf16"),
    Planted("zero_vector", "fp16", "domain_error", "1", "div", "forward", "fp16:keep=1"),
    Planted("residual_stream", "fp16", "overflow", "blocks.9", "mul", "forward", "bf16"),
    Planted("embedding_sums", "bf16-true", "saturated_sum", "embedding", "embedding_dense_backward", "backward", "bf16"),
    Planted("scale_runaway", "fp16", "scale_collapse", "", "_to_copy", "backward", "bf16"),
    Planted("nan_in_data", "fp16", "nan_source", "Sequential", "", "forward", "clean the data", "data"),
    Planted("nan_in_targets", "bf16", "nan_source", "", "sub", "forward", "targets", "data"),
    Planted("constant_feature", "fp16", "domain_error", "0", "div", "forward", "away from zero", "model"),
    Planted("outlier_sample", "fp8-e4m3", "underflow", "0", "", "forward", "mxfp8"),
    Planted("narrow_features", "mxfp4", "overflow", "0", "", "forward", "nvfp4"),
    Planted("running_sum", "bf16", "saturated_sum", "1", "add", "forward", "bf16:keep=1"),
]  # fmt: skip


@pytest.fixture
def gallery() -> Iterator[None]:
    """The gallery's programs can be imported, as a script's neighbours can."""
    sys.path.insert(0, str(GALLERY))
    yield
    sys.path.remove(str(GALLERY))


def trial(program: str, precision: str, faulty: bool, record: Path) -> Record:
    """Train a program of the gallery, watched; its record."""
    torch.manual_seed(0)
    recipe = parse(precision)
    takeover = Takeover(Options(recipe, RunOptions(emulate=recipe.only_emulated), Writer(record), watch=True))
    try:
        with contextlib.suppress(EnoughSteps, GradientsOverflow):
            importlib.import_module(program).train(faulty)
    finally:
        takeover.close()
        takeover.remove()
    return read(record)


def diagnosed(planted: Planted, faulty: bool, folder: Path) -> dict[str, Any]:
    tried, reference = (
        trial(planted.program, precision, faulty, folder / f"{n}.jsonl")
        for n, precision in enumerate((planted.precision, "fp32"))
    )
    found: dict[str, Any] = codec.write(worded(diagnose(planted.precision, tried, reference)))
    return found


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.program)
def test_a_planted_fault_is_named(planted: Planted, gallery: None, tmp_path: Path) -> None:
    found = diagnosed(planted, True, tmp_path)["findings"]
    assert found, "no finding"
    worst = found[0]
    named = (worst["kind"], worst["where"], worst["operation"], worst["direction"], worst["fault"])
    expected = (planted.kind, planted.where, planted.operation, planted.direction, planted.fault)
    assert named == expected, worst["evidence"]
    # A scale that fell because every step was skipped makes no gradient vanish.
    assert planted.kind == "underflow" or "underflow" not in [other["kind"] for other in found]
    offered = [way["recipe"] or way["text"] for way in worst["remedies"]]
    assert any(
        way == planted.remedy or planted.remedy in way.split(" ") or planted.remedy in way for way in offered
    )
    if (
        "is itself 0 in fp16" in worst["evidence"]
    ):  # the operation may compute in fp32: its argument is fp16's
        assert any("fp16 can hold, 6e-05 or more" in way for way in offered)
    if worst["operation"] and worst["direction"] != "step":
        file = worst["source"].rpartition(":")[0]
        assert Path(file).name in (f"{planted.program}.py", "loop.py")
        assert worst["code"]


@pytest.mark.parametrize("precision", ["bf16-lean", "bf16-sr"])
def test_no_update_is_lost_of_weights_that_are_fp32_for_a_step(
    precision: str, gallery: None, tmp_path: Path
) -> None:
    planted = Planted("small_updates", precision, "", "", "", "", "")
    assert diagnosed(planted, True, tmp_path)["findings"] == []


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.program)
def test_a_healthy_twin_has_no_finding(planted: Planted, gallery: None, tmp_path: Path) -> None:
    found = diagnosed(planted, False, tmp_path)
    assert [(f["kind"], f["where"], f["evidence"]) for f in found["findings"]] == []
    assert found["layers"]
