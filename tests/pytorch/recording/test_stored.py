"""What is stored, by format, against bytes worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.module_calls import ModuleCalls
from halfstep.pytorch.recording.stored import StoredMeter, bytes_by_format, stored_in
from halfstep.record import Writer, read
from halfstep.record.stored import PARTS, Stored, together

from ..conftest import Begin


def test_bytes_by_format() -> None:
    assert bytes_by_format([torch.zeros(3), torch.zeros(2).half(), torch.zeros(5, dtype=torch.int8)]) == {
        "fp32": 12,
        "fp16": 4,
        "int8": 5,
    }


def test_shared_memory_counts_once() -> None:
    """Tied weights, a transposed view, an expanded one, and the pieces of a flat parameter."""
    whole = torch.zeros(4, 8)
    assert bytes_by_format([whole, whole.t(), whole[1:]]) == {"fp32": 4 * 32}
    assert bytes_by_format([torch.zeros(1).expand(1000)]) == {"fp32": 4}
    assert bytes_by_format(torch.zeros(100, dtype=torch.bfloat16).split([30, 70])) == {"bf16": 200}
    assert bytes_by_format([torch.zeros(100)[:10]]) == {"fp32": 40}


def test_memory_that_is_not_here_counts_as_none() -> None:
    gathered = torch.zeros(64)
    gathered.untyped_storage().resize_(0)
    assert bytes_by_format([gathered, torch.empty(64, device="meta")]) == {}


def test_a_sparse_gradient_is_its_indices_and_values() -> None:
    table = nn.Embedding(100, 4, sparse=True)
    table(torch.tensor([1, 5])).sum().backward()
    assert bytes_by_format([table.weight.grad]) == {"int64": 2 * 8, "fp32": 2 * 4 * 4}


class Pair(torch.Tensor):
    """A tensor that is made of two: eight bits each, and a scale."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Pair:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *rest: object) -> Pair:
        return Pair(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError(func)


def test_a_tensor_made_of_others_is_these() -> None:
    quantised = Pair(torch.zeros(6, 10, dtype=torch.int8), torch.zeros(6))
    assert bytes_by_format([quantised]) == {"int8": 60, "fp32": 24}


def test_frozen_weights_of_the_modules_that_are_called_count() -> None:
    """A frozen bf16 base under two trained adapters in fp32: 16x8 in bf16, 8x2 and 2x8 in fp32, Adam's two moments."""
    base = nn.Linear(8, 16, bias=False).bfloat16().requires_grad_(False)
    down, up = nn.Linear(8, 2, bias=False), nn.Linear(2, 16, bias=False)
    never_called = nn.Linear(1000, 1000)
    optimizer = torch.optim.Adam([*down.parameters(), *up.parameters()])
    meter = StoredMeter()
    calls, patches = ModuleCalls(), Patches()
    calls.install(patches)
    calls.tell(meter.called)
    x = torch.randn(4, 8)
    (base(x.bfloat16()).float() + up(down(x))).sum().backward()
    optimizer.step()
    patches.undo()
    found = Stored.of(meter.end([*down.parameters(), *up.parameters()], [optimizer]))
    trained = 4 * (8 * 2 + 2 * 16)
    assert found.weights == {"bf16": 2 * 8 * 16, "fp32": trained}
    assert found.gradients == {"fp32": trained}
    assert found.optimizer == {
        "fp32": 2 * trained + 2 * 4
    }  # two moments, and a counter of steps for each weight
    assert never_called.weight.dtype is torch.float32
    assert not hasattr(nn.Module.__call__, "__wrapped__")


def test_an_optimizer_that_another_thread_is_about_to_step_counts() -> None:
    """Of its model only the second half is called in the step that is looked at."""
    meter, calls, patches = StoredMeter(), ModuleCalls(), Patches()
    meter.install(patches)
    calls.install(patches)
    mine, theirs = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)).bfloat16()
    unused = nn.Linear(1000, 8)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (mine, theirs, unused)]
    hidden = theirs[0](torch.ones(4, 8, dtype=torch.bfloat16))
    calls.tell(meter.called)
    theirs[1](hidden)
    mine(torch.ones(4, 8)).sum().backward()
    optimizers[0].step()
    patches.undo()
    found = Stored.of(meter.end(list(mine.parameters()), optimizers[:1]))
    assert found.weights == {"fp32": 4 * (64 + 8), "bf16": 2 * (128 + 16 + 128 + 8)}


def test_a_failure_is_absent_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("halfstep.pytorch.recording.stored.stored_in", fails)
    meter = StoredMeter()
    found = Stored.of(meter.end([], []))
    assert not found.measured
    assert set(found.absent) == set(PARTS)
    assert "planted" in found.absent["weights"]


@pytest.mark.parametrize(
    ("recipe", "format", "size"), [("fp32", "fp32", 4), ("bf16", "fp32", 4), ("bf16-true", "bf16", 2)]
)
def test_a_record_tells_what_a_recipe_stores(
    begin: Begin, tmp_path: Path, recipe: str, format: str, size: int
) -> None:
    writer = Writer(tmp_path / "record")
    takeover = begin(recipe, writer)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
    takeover.close()
    numbers = 16 * 32 + 32 + 32 * 8 + 8
    assert read(tmp_path / "record").stored.as_json() == {part: {format: size * numbers} for part in PARTS}


def test_ranks_are_summed_and_what_one_lacks_is_absent() -> None:
    first = Stored({"fp32": 8}, {"fp32": 8}, {"fp32": 16})
    second = Stored({"fp32": 8, "bf16": 2}, {}, None, {"optimizer": "lost"})
    assert together([first, second]) == Stored(
        {"fp32": 16, "bf16": 2}, {"fp32": 8}, None, {"optimizer": "lost"}
    )


def test_an_event_is_not_taken_on_trust() -> None:
    event = {
        "weights": {"fp32": 4, "bad": float("nan"), "worse": "x", "less": -1},
        "gradients": [],
        "absent": {"x": 1},
    }
    assert Stored.of(event) == Stored({"fp32": 4})


def test_formats_that_hold_next_to_nothing_are_not_named() -> None:
    """Adam's counters: 4 bytes of fp32 for each weight."""
    assert Stored(optimizer={"fp32": 4, "bf16": 4000}).formats("optimizer") == ("bf16",)
    assert Stored(weights={"fp32": 10, "bf16": 90}).formats("weights") == ("bf16", "fp32")


def test_frozen_weights_are_not_trained_ones_twice() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert stored_in(list(layer.parameters()), [layer, nn.Sequential(layer)], [])["weights"] == {"fp32": 64}


@pytest.mark.parametrize(("recipe", "format"), [("fp32", "fp32"), ("bf16-true", "bf16")])
def test_without_a_record_weights_and_products_are_seen_once(begin: Begin, recipe: str, format: str) -> None:
    """Also those of an optimizer that steps after one of hyperparameters."""
    takeover = begin(recipe)
    layer, rate = nn.Linear(4, 4, bias=False), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer, of_rate = torch.optim.SGD(layer.parameters(), lr=0.1), torch.optim.SGD([rate], lr=0.1)
    for _ in range(4):
        layer(torch.ones(2, 4)).sum().backward()
        rate.grad = torch.zeros_like(rate)
        of_rate.step()
        optimizer.step()
        optimizer.zero_grad()
    kept = takeover.options.writer.kept
    assert kept.stored.weights == {"fp64": 16, format: 16 * (4 if format == "fp32" else 2)}
    assert kept.sample["matmul_flops"] == {format: 2 * (2 * 2 * 4 * 4)}  # forward, and for the weight
