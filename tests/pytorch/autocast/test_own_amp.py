"""The script's own AMP yields to the recipe, in every spelling; ``as-is`` leaves it alone."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from halfstep.record import Writer


def amp_script(autocast, scaler) -> tuple[torch.dtype, float, float]:
    """The recipe of PyTorch's manual: the dtype of a product, the first gradient and the scale that it prints."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with autocast():
        out = model(x)
        loss = out.float().square().mean()
    scaler.scale(loss).backward()
    gradient = model.weight.grad[0, 0].item()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return out.dtype, gradient, scaler.get_scale()


def spellings() -> list:
    return [
        lambda: torch.autocast("cpu", dtype=torch.float16),
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.amp.autocast(device_type="cpu", dtype=torch.float16, enabled=True),
        lambda: torch.cpu.amp.autocast(dtype=torch.float16),
    ]


@pytest.mark.parametrize("spelling", range(4))
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("bf16-true", torch.bfloat16),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_the_recipe_wins(begin, recipe: str, dtype: torch.dtype, spelling: int) -> None:
    begin(recipe)
    seen, gradient, scale = amp_script(spellings()[spelling], torch.amp.GradScaler("cpu", init_scale=64.0))
    assert seen is dtype
    assert abs(gradient) < 1, "the script's own scaler multiplies by 64"
    assert scale == 1.0


def test_as_is_leaves_it_alone(begin) -> None:
    plain = amp_script(spellings()[1], torch.amp.GradScaler("cpu", init_scale=64.0))
    begin("as-is")
    assert amp_script(spellings()[1], torch.amp.GradScaler("cpu", init_scale=64.0)) == plain
    assert plain[0] is torch.bfloat16
    assert plain[2] == 64.0


@pytest.mark.parametrize("several", [False, True])
def test_the_recorded_loss_is_the_scripts_not_the_one_its_scaler_made(
    begin, tmp_path: Path, several: bool
) -> None:
    begin("as-is", Writer(tmp_path / "record.jsonl"))
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for _ in range(2):
        losses = [weight.square().sum(), weight.sum()] if several else [weight.square().sum()]
        for scaled in scaler.scale(losses) if several else [scaler.scale(losses[0])]:
            scaled.backward()
        scaler.step(optimizer)
        scaler.update()
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["event"] == "step"] == [12.0 if several else 9.0] * 2
    assert not [line for line in lines if line["event"] == "warning"], "no scale is written by hand"


@pytest.mark.parametrize("recipe", ["as-is", "fp32", "bf16"])
def test_the_record_says_that_the_script_has_amp(begin, recipe: str) -> None:
    takeover = begin(recipe)
    events: list[tuple[str, dict[str, str]]] = []
    takeover.recorder.write = lambda event, **fields: events.append((event, fields))  # type: ignore[method-assign]
    amp_script(spellings()[0], torch.amp.GradScaler("cpu"))
    amp_script(spellings()[0], torch.amp.GradScaler("cpu"))
    assert [event for event in events if event[0] == "own_amp"] == [
        ("own_amp", {"what": "GradScaler"}),
        ("own_amp", {"what": "autocast"}),
    ]
    regions = [] if recipe == "as-is" else [("region", {"kind": "own"})]
    assert [event for event in events if event[0] == "region"] == regions


def test_disabled_amp_and_checkpointing_are_no_amp_of_the_scripts(begin) -> None:
    from torch.utils.checkpoint import checkpoint

    takeover = begin("bf16")
    events: list[str] = []
    takeover.recorder.write = lambda event, **fields: events.append(event)  # type: ignore[method-assign]
    x = torch.randn(4, 4, requires_grad=True)
    checkpoint(lambda t: t @ t, x, use_reentrant=False).float().sum().backward()
    with torch.autocast("cpu", enabled=False):
        pass
    torch.amp.GradScaler("cpu", enabled=False)
    assert events == ["warning", "region"]  # that there is no optimizer, and that no module is called


def test_autocast_as_a_decorator(begin) -> None:
    begin("fp16")

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def product(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    assert product(torch.ones(2, 2)).dtype is torch.float16


def test_cuda_spellings_on_a_machine_without_cuda_warn_as_ever(begin) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    begin("bf16")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autocast("cuda", dtype=torch.float16):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    assert any("CUDA is not available" in str(w.message) for w in caught)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("recipe", ["as-is", "bf16"])
def test_a_warning_names_the_line_that_it_names_without_halfstep(begin, recipe: str) -> None:
    def places() -> list[tuple[str, int]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.autocast("cuda", dtype=torch.float16)
            torch.amp.GradScaler("cuda")
            torch.cuda.amp.GradScaler()
            torch.cuda.amp.autocast()
        return [(w.filename, w.lineno) for w in caught]

    plain = places()
    assert {file for file, _ in plain} == {
        __file__,
        torch.cuda.amp.grad_scaler.__file__,
        torch.cuda.amp.autocast_mode.__file__,
    }
    begin(recipe)
    assert places() == plain


def test_float32_matmul_precision_is_the_recipes(begin) -> None:
    begin("fp32")
    torch.set_float32_matmul_precision("medium")
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision("highest")  # what the script set last holds again after the takeover
