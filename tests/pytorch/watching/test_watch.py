"""What the watch counts and where it says that it was, against NumPy and the model's own names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.takeover import Takeover
from halfstep.pytorch.watching.numbers import LARGEST_COUNTED, Tally, histogram
from halfstep.record import Record, Writer, read

from ..conftest import Begin


def fields(x: Tensor) -> np.ndarray:
    counts = histogram(x).exponents
    return np.array([counts.get(n, 0) for n in range(256)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exponents_are_frexps(dtype: torch.dtype) -> None:
    x = (torch.randn(300_001, dtype=torch.float64) * torch.logspace(-12, 6, 300_001, dtype=torch.float64)).to(
        dtype
    )
    x[:7] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -0.75])
    found = fields(x)
    values = x.float().numpy()
    usual = values[np.isfinite(values) & (np.abs(values) >= 2.0**-126)]
    expected = np.bincount(np.frexp(np.abs(usual))[1] - 1 + 127, minlength=256)
    expected[0] = (np.abs(values) < 2.0**-126).sum()
    expected[255] = (~np.isfinite(values)).sum()
    assert (found == expected).all()


def test_every_fp16_number_has_its_exponent() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    values = every.float().numpy()
    finite = np.abs(values[np.isfinite(values) & (values != 0)])
    expected = np.bincount(np.frexp(finite)[1] + 126, minlength=256)
    expected[0], expected[255] = 2, 2 * 1024
    assert (fields(every) == expected).all()


def test_edges_are_what_rounding_to_so_many_digits_gives() -> None:
    """A mantissa in [1, 2), rounded half to even to 11 digits (fp16) or 8 (bf16), becomes 2 or not."""
    fractions = torch.arange(0, 1 << 23, 1021, dtype=torch.int32)
    tops = torch.arange((1 << 23) - (1 << 16), 1 << 23, 7, dtype=torch.int32)
    x = (torch.cat([fractions, tops, torch.zeros(5, dtype=torch.int32)]) | (130 << 23)).view(torch.float32)
    found = histogram(torch.cat([x, -x])).edges
    mantissas = x.double().numpy() / 8
    assert found["powers"] == {3: 2 * int((mantissas == 1).sum())}
    for name, digits in (("fp16", 11), ("bf16", 8)):
        rounded = np.rint(mantissas * 2.0 ** (digits - 1)) / 2.0 ** (digits - 1)
        assert found[name] == {3: 2 * int((rounded == 2).sum())}


def test_a_large_tensor_is_counted_in_part_and_says_so() -> None:
    tally, x = Tally(), torch.ones(5 * LARGEST_COUNTED)
    x[-1] = 1024.0
    tally.add(x, "fp32")
    assert tally.elements == 5 * LARGEST_COUNTED
    assert 0.9 * LARGEST_COUNTED <= tally.counted <= LARGEST_COUNTED
    assert tally.largest == 1024.0


def test_a_loss_scale_is_taken_off_the_exponents() -> None:
    tally = Tally()
    tally.add(torch.tensor([0.0, 65536.0 * 2.0**-20]), "fp16", scale=65536.0)
    assert tally.counts == {-127: 1, -20: 1}
    assert tally.largest == 2.0**-20


class Half(nn.Module):
    """A module that makes an infinity in fp16."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(8, 8), gain

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.gain


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Half(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def watched(
    begin: Begin, recipe: str, model: nn.Module, path: Path, call: Callable[[], Tensor] | None = None
) -> Record:
    takeover: Takeover = begin(recipe, Writer(path), watch=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 8)
    for _ in range(2):
        loss = (model(x) if call is None else call()).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    takeover.close()
    return read(path)


def numbers(record: Record, kind: str) -> dict[str, dict]:
    return {
        e["module"]: e
        for e in record.watched
        if e["what"] == "numbers" and e["kind"] == kind and e["step"] == 0
    }


def test_a_checkpoints_second_forward_pass_is_not_counted(begin: Begin, tmp_path: Path) -> None:
    record = watched(begin, "fp32", nn.Sequential(Checkpointed(), nn.Linear(8, 1)), tmp_path / "r.jsonl")
    activations, gradients = numbers(record, "activations"), numbers(record, "gradients")
    assert activations["0.inner.linear"]["elements"] == 4 * 8
    assert gradients["0.inner.linear"]["elements"] == 4 * 8


def test_a_shared_module_counts_once_a_call(begin: Begin, tmp_path: Path) -> None:
    shared = nn.Linear(8, 8)
    record = watched(begin, "fp32", nn.Sequential(shared, nn.Tanh(), shared), tmp_path / "r.jsonl")
    assert numbers(record, "activations")["0"]["elements"] == 2 * 4 * 8


def test_gradients_are_true_under_a_loss_scale(begin: Begin, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    scaled = watched(begin, "fp16", model, tmp_path / "a.jsonl")
    event = numbers(scaled, "gradients")["Linear"]
    assert event["scale"] == 65536.0
    # d loss / d output = 2 output / 4 of outputs below 4: no true gradient reaches 2^2.
    assert max(map(int, event["counts"])) < 2


def test_in_place_operations_are_no_obstacle(begin: Begin, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))
    assert set(numbers(watched(begin, "bf16", model, tmp_path / "r.jsonl"), "gradients")) >= {"0", "2"}


@pytest.mark.parametrize("recipe", ["fp8", "mxfp4"])
def test_operands_of_emulated_products_are_those_of_their_layers(
    recipe: str, begin: Begin, tmp_path: Path
) -> None:
    """Norms between the layers have no products; each layer has a gradient of the shape of its output."""
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5))
    takeover = begin(recipe, Writer(tmp_path / "r.jsonl"), watch=True, emulate=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(torch.randn(4, 8)) * torch.randn(4, 5)).sum().backward()
    optimizer.step()
    takeover.close()
    events = [e for e in read(tmp_path / "r.jsonl").watched if e["what"] == "rounded"]
    counted = {(e["module"], e["kind"]): e["vectors"] for e in events}
    # Blocks are rounded along both axes of a gradient where both products are made; the first layer's x needs none.
    across = {"fp8": 0, "mxfp4": 5}[recipe]
    assert counted == {
        ("0", "inputs"): 4, ("0", "weights"): 6, ("0", "gradients"): 4 if recipe == "fp8" else 6,
        ("3", "inputs"): 4, ("3", "weights"): 5, ("3", "gradients"): 4 + across,
    }  # fmt: skip


def test_watching_changes_no_number(begin: Begin, tmp_path: Path) -> None:
    losses = []
    for watch in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        takeover = begin("fp16", Writer(tmp_path / f"{watch}.jsonl"), watch=watch)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(12):
            loss = model(torch.randn(16, 8)).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        takeover.close()
        takeover.remove()
        losses.append(read(tmp_path / f"{watch}.jsonl").losses)
    assert losses[0] == losses[1]


def test_a_mask_of_infinities_is_no_origin(begin: Begin, tmp_path: Path) -> None:
    model = nn.Linear(8, 8)
    mask = torch.full((8, 8), float("-inf")).triu(1)
    record = watched(
        begin, "fp16", model, tmp_path / "r.jsonl",
        lambda: (model(torch.randn(8, 8)) + mask).softmax(-1) + model(torch.ones(8, 8)).masked_fill(mask < 0, float("-inf")).exp(),
    )  # fmt: skip
    assert [e for e in record.watched if e["what"] == "origin"] == []


@pytest.mark.parametrize("foreach", [False, True])
def test_the_state_that_an_optimizer_keeps_is_no_second_origin(
    begin: Begin, tmp_path: Path, foreach: bool
) -> None:
    """NaN since the first step; the second multiplies it in place, and what it multiplied is then seen no more."""
    takeover = begin("fp32", Writer(tmp_path / "r.jsonl"), watch=True)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.001, foreach=foreach)
    for factor in (1.0, 1e30, 1.0, 1.0):
        optimizer.zero_grad()
        (model(torch.ones(4, 8)) * factor).square().mean().backward()
        optimizer.step()
    takeover.close()
    origins = [e for e in read(tmp_path / "r.jsonl").watched if e["what"] == "origin"]
    assert {e["step"] for e in origins} == {1}


def test_a_tensor_that_was_mended_may_be_an_origin_again(begin: Begin, tmp_path: Path) -> None:
    takeover = begin("fp32", Writer(tmp_path / "r.jsonl"), watch=True)
    weight, kept = nn.Parameter(torch.ones(2)), torch.zeros(2)
    optimizer = torch.optim.SGD([weight], 0.1)
    for _ in range(3):
        weight.sum().backward()
        optimizer.step()
        kept.fill_(2.0).mul_(3e38)
    takeover.close()
    origins = [e for e in read(tmp_path / "r.jsonl").watched if e["what"] == "origin"]
    assert [e["step"] for e in origins] == [1, 2, 3]


def test_mutation_of_weights_by_hand_is_no_obstacle_to_names(begin: Begin, tmp_path: Path) -> None:
    record = watched(begin, "bf16-true", nn.Sequential(Half(1.0), nn.Linear(8, 1)), tmp_path / "r.jsonl")
    assert {e["parameter"] for e in record.watched if e["what"] == "update"} == {
        "0.linear.weight", "0.linear.bias", "1.weight", "1.bias"
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_8_bits_are_looked_at(begin: Begin, tmp_path: Path, dtype: torch.dtype) -> None:
    """PyTorch has no sum of them; a cast to e5m2 overflows, one to e4m3fn saturates."""
    model, large = nn.Linear(8, 8), torch.tensor([1e6] * 8)
    record = watched(
        begin, "bf16", model, tmp_path / "r.jsonl",
        lambda: model(torch.ones(8)) + 0 * large.to(dtype).float().nan_to_num(0, 0, 0),
    )  # fmt: skip
    origins = [e for e in record.watched if e["what"] == "origin"]
    overflowing = {("_to_copy", 0, 8)} if dtype is torch.float8_e5m2 else set()
    assert {(e["operation"], e["nan"], e["infinite"]) for e in origins} == overflowing


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_operations_of_the_script_compute_as_where_nobody_watches(
    begin: Begin, tmp_path: Path, recipe: str, by_name: bool
) -> None:
    """Inside autocast, and outside of it; in bf16 a 16-bit number meets an fp32 weight there."""
    seen: list[torch.dtype] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        result = x @ weight.T
        seen.append(result.dtype)
        return result

    operation = torch.library.custom_op("halfstep_watched::product", mutates_args=())(product)
    operation.register_autograd(
        lambda ctx, g: (g @ ctx.saved_tensors[1], g.T @ ctx.saved_tensors[0]),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    called = torch.ops.halfstep_watched.product if by_name else operation

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8) / 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                x = called(x, self.weight)
            result: Tensor = called(called(self.layer(x), self.weight), torch.eye(8))
            return result

    def trained(watch: bool) -> tuple[list[float], list[torch.dtype]]:
        torch.manual_seed(0)
        seen.clear()
        takeover = begin(recipe, Writer(tmp_path / f"{watch}.jsonl"), watch=watch)
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            x = torch.randn(4, 8)
            loss = called(net(x), torch.eye(8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        takeover.close()
        takeover.remove()
        return losses, list(seen)

    try:
        expected = trained(watch=False)
        assert trained(watch=True) == expected
    finally:
        operation._lib._destroy()
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe, torch.float32)
    assert expected[1][:4] == [torch.float32, narrow, narrow, torch.float32]


@pytest.mark.parametrize("layer", ["encoder", "attention"])
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16", "bf16-true", "bf16-lean"])
def test_a_fused_layer_computes_as_where_nobody_watches(
    begin: Begin, tmp_path: Path, recipe: str, layer: str
) -> None:
    """PyTorch calls one operation for the whole layer in an evaluation."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return found

    def evaluated(watch: bool) -> list[list[float]]:
        torch.manual_seed(0)
        takeover = begin(recipe, Writer(tmp_path / f"{watch}.jsonl"), watch=watch)
        encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        net = nn.Sequential(encoder if layer == "encoder" else Attention(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = []
        for _ in range(2):
            net.train()
            x = torch.randn(2, 5, 16)
            net(x).square().mean().backward()
            optimizer.step()
            net.eval()
            with torch.no_grad():
                found.append(net(x).flatten().tolist())
        takeover.close()
        takeover.remove()
        return found

    assert evaluated(watch=True) == evaluated(watch=False)
