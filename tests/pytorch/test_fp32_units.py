"""A script's ways to let products of fp32 numbers run in fewer bits: none of them holds in a recipe but ``tf32``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from halfstep.pytorch.fp32_units import _PLACES, Fp32Units, _settings, sums_of, units_of, watch_only
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.products import ProductCounter
from halfstep.record import read

from .conftest import Begin

#: what a script may write, and how it is told of
LINES = {
    "torch.set_float32_matmul_precision('high')": "torch.set_float32_matmul_precision",
    "torch.set_float32_matmul_precision('medium')": "torch.set_float32_matmul_precision",
    "torch.backends.cuda.matmul.allow_tf32 = True": "torch.backends.cuda.matmul.allow_tf32",
    "torch.backends.cudnn.allow_tf32 = True": "torch.backends.cudnn.allow_tf32",
    "torch.backends.cudnn.set_flags(_allow_tf32=True)": "torch.backends.cudnn.allow_tf32",
    "torch.backends.fp32_precision = 'tf32'": "torch.backends.fp32_precision",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": "torch.backends.cuda.matmul.fp32_precision",
    "torch.backends.cudnn.fp32_precision = 'tf32'": "torch.backends.cudnn.fp32_precision",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'": "torch.backends.cudnn.conv.fp32_precision",
    "torch.backends.cudnn.rnn.fp32_precision = 'tf32'": "torch.backends.cudnn.rnn.fp32_precision",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": "torch.backends.mkldnn.matmul.fp32_precision",
}


def in_force() -> dict[tuple[str, str], str]:
    return {place: torch._C._get_fp32_precision_getter(*place) for place in _PLACES}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = _settings()
    yield
    for restore in before:
        restore()


@pytest.mark.parametrize("line", LINES)
def test_fp32_is_fp32_whatever_the_script_sets(line: str, begin: Begin) -> None:
    begin("fp32")
    exec(line)
    assert set(in_force().values()) == {"ieee"}
    # PyTorch refuses to answer where its two interfaces were set differently.
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("line", LINES)
def test_what_the_script_asks_for_is_told_and_holds_after_the_recipe(line: str) -> None:
    untouched = in_force()
    told: list[str] = []
    patches = Patches()
    watch_only(lambda what, value: told.append(what), patches)
    exec(line)
    patches.undo()
    plain = in_force()
    assert told == [LINES[line]]
    for restore in (
        lambda: torch.set_float32_matmul_precision("highest"),
        lambda: torch._C._set_cudnn_allow_tf32(True),
    ):
        restore()
    for place, precision in untouched.items():
        torch._C._set_fp32_precision_setter(*place, precision)

    for tf32 in (False, True):
        told.clear()
        units = Fp32Units(tf32, lambda what, value: told.append(what))
        units.install(patches)
        exec(line)
        assert set(in_force().values()) == {"tf32" if tf32 else "ieee"}
        patches.undo()
        units.release()
        assert told == [LINES[line]]
    assert in_force() == plain


def test_asking_for_fp32_is_not_told() -> None:
    told: list[str] = []
    patches = Patches()
    watch_only(lambda what, value: told.append(what), patches)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    patches.undo()
    assert told == []


def test_a_wrong_value_is_refused_as_pytorch_does(begin: Begin) -> None:
    begin("fp32")
    with pytest.raises(RuntimeError):
        torch.backends.cuda.matmul.fp32_precision = "bf16"
    assert set(in_force().values()) == {"ieee"}


def test_kinds_of_product_have_settings_of_their_own() -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    assert [units_of(kind, cuda=True) for kind in ("matmul", "conv", "rnn")] == ["fp32", "tf32", "fp32"]
    assert [units_of(kind, cuda=False) for kind in ("matmul", "conv", "rnn")] == ["fp32"] * 3


def test_products_are_counted_in_the_units_of_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    counter = ProductCounter()
    counter.begin()
    torch.ones(3, 4) @ torch.ones(4, 5)
    torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3))
    counter.end()
    assert dict(counter.flops) == {"fp32": 2 * 3 * 4 * 5, "tf32": 2 * 2 * 2 * 9}


def test_settings_that_let_sums_have_fewer_bits_are_told_by_the_formats_that_ran(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's defaults let parts of a long sum be added in 16 bits, and not all of it."""
    bf16, fp16 = (f"allow_{name}_reduced_precision_reduction" for name in ("bf16", "fp16"))
    assert sums_of(["fp32"]) == []
    assert sums_of(["bf16", "fp32", "fp16"]) == [bf16, fp16]
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation, matmul.allow_bf16_reduced_precision_reduction = True, False
    try:
        assert sums_of(["bf16", "fp16"]) == [fp16, "allow_fp16_accumulation"]
    finally:
        matmul.allow_fp16_accumulation, matmul.allow_bf16_reduced_precision_reduction = before, True


SCRIPT = """
import torch
torch.backends.cuda.matmul.fp32_precision = 'ieee'
torch.backends.cudnn.conv.fp32_precision = 'tf32'
net = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(5):
    net(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("precision", ["as-is", "fp32", "bf16"])
def test_a_recorded_run_reads_no_setting_that_pytorch_refuses_to_tell(precision: str, tmp_path: Path) -> None:
    script, record = tmp_path / "script.py", tmp_path / "record.jsonl"
    script.write_text(SCRIPT)
    run = [
        sys.executable,
        "-m",
        "halfstep",
        "run",
        "--precision",
        precision,
        "--record",
        str(record),
        str(script),
    ]
    subprocess.run(run, check=True, cwd=tmp_path)
    found = read(record)
    assert len(found.steps) == 5
    assert found.sample["matmul_flops"]
    assert found.absent == {}
