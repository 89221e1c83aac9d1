"""Outside of its regions a program that holds 16-bit numbers may let them meet fp32 ones, in every recipe."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RECIPES = ("fp32", "bf16", "fp16")


def half_model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).bfloat16()


#: what a script does with a model's result and its own bf16 tensors: in python all are bf16
GLUE = {
    "matmul": lambda f, bank, weight: f @ bank.T,
    "einsum": lambda f, bank, weight: torch.einsum("bd,nd->bn", f, bank),
    "cdist": lambda f, bank, weight: torch.cdist(f, bank),
    "linear": lambda f, bank, weight: F.linear(f, bank, bank[:, 0]),
    "bilinear": lambda f, bank, weight: F.bilinear(f, f, bank[None, :8], bank[0, :1]),
    "attention": lambda f, bank, weight: F.scaled_dot_product_attention(f[None], bank[None], bank[None]),
    "layer_norm": lambda f, bank, weight: F.layer_norm(f, (8,), weight, weight),
    "dot": lambda f, bank, weight: torch.dot(f[0], weight),
    "cat": lambda f, bank, weight: torch.cat([f, bank]),
    "conv": lambda f, bank, weight: F.conv1d(f[None], bank[:4, :4, None].transpose(0, 1)),
    "index_add": lambda f, bank, weight: torch.zeros(32, 8, dtype=bank.dtype).index_add(
        0, torch.arange(4), f
    ),
    "lerp": lambda f, bank, weight: torch.lerp(f, bank[:4], 0.5),
    "baddbmm": lambda f, bank, weight: torch.baddbmm(bank[None, :4], f[None], bank[None, :8]),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("what", GLUE)
def test_a_result_in_fp32_meets_the_scripts_16_bit_tensors(begin, recipe: str, what: str) -> None:
    """The value is float64's to the rounding of the formats that the program and the recipe hold."""
    begin(recipe)
    model, bank, weight = (
        half_model(),
        torch.randn(32, 8, dtype=torch.bfloat16),
        torch.rand(8, dtype=torch.bfloat16),
    )
    torch.optim.SGD(model.parameters(), 0.1)
    features = model(torch.randn(4, 8))
    assert features.dtype is torch.float32
    found = GLUE[what](features, bank, weight)
    exact = GLUE[what](features.double(), bank.double(), weight.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-7)
    found.sum().backward()


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_thread_and_a_closed_region_are_outside_too(begin, recipe: str) -> None:
    begin(recipe)
    model, bank = half_model(), torch.randn(32, 8, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    x, found = torch.randn(4, 8), []

    def work() -> None:
        found.append(x @ bank.T)

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 2
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], x @ bank.T.float())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_scripts_own_region_is_left_for_the_same_outside(begin, recipe: str) -> None:
    """Its features are bf16 in python, and so is its bank; under another recipe they would not be of one dtype."""
    begin(recipe)
    model, bank = nn.Linear(8, 8), torch.randn(32, 8, dtype=torch.bfloat16)
    x = torch.randn(4, 8)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            features = model(x)
        exact = features.double() @ bank.double().T
        torch.testing.assert_close((features @ bank.T).double(), exact, rtol=2**-7, atol=2**-6)


def test_the_scripts_own_region_in_the_recipes_format_has_its_own_outside(begin) -> None:
    """What its author computes outside is computed as by hand, to the bit."""
    model, x = nn.Linear(8, 8), torch.randn(4, 8)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features = model(x)
        return features.softmax(-1).sum(0) @ features.T

    by_hand = loss()
    begin("bf16")
    assert torch.equal(loss(), by_hand)
    assert not torch.is_autocast_enabled("cpu")


def test_a_scripts_own_region_brings_no_kernels_in_python(begin) -> None:
    """They take microseconds per call, which the fp32 row of a script with AMP would be slower by."""

    def replaced() -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key("aten::layer_norm", "AutocastCPU")

    begin("fp32")
    with torch.autocast("cpu", torch.bfloat16):
        nn.Linear(8, 8)(torch.randn(4, 8))
    assert not replaced()
    half_model()(torch.randn(4, 8))
    assert replaced(), "a program that holds 16-bit weights needs them"


def test_what_a_script_saves_in_16_bits_is_saved_in_16_bits(begin, tmp_path: Path) -> None:
    begin("fp32")
    model = half_model()
    model(torch.randn(4, 8, dtype=torch.bfloat16))
    torch.save({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "weights.pt")
    assert {v.dtype for v in torch.load(tmp_path / "weights.pt").values()} == {torch.float16}


def test_a_program_that_holds_no_16_bit_number_is_outside_of_autocast(begin) -> None:
    begin("fp16")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model(torch.randn(4, 8))
    assert not torch.is_autocast_enabled("cpu")


def test_the_optimizer_computes_outside_of_autocast(begin) -> None:
    """Its arithmetic is PyTorch's own; a step of its closure is a forward pass."""
    begin("fp32")
    model = half_model()
    seen: list[bool] = []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().step(closure)

    optimizer = Watching(model.parameters(), 0.1)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    assert seen == [False]
    assert torch.is_autocast_enabled("cpu"), "and afterwards it is as it was"
