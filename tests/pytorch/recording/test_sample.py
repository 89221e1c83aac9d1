"""The sampled step: sizes that do not suit matrix units, and what a pass keeps, against sizes worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from halfstep.pytorch.recording.flops import odd_sizes
from halfstep.pytorch.recording.profile import Profile
from halfstep.pytorch.recording.sample import Sample

from ..no_looks import NoLooks


@pytest.mark.parametrize(
    ("operation", "operands", "odd"),
    [
        ("mm", [(16, 8), (8, 24)], False),
        ("mm", [(16, 8), (8, 25)], True),
        ("addmm", [(25,), (15, 8), (8, 24)], True),
        ("addmm", [(24,), (16, 8), (8, 24)], False),
        ("bmm", [(3, 16, 8), (3, 8, 24)], False),
        ("convolution", [(4, 3, 9, 9), (16, 3, 3, 3), (16,)], True),
        ("convolution", [(4, 8, 9, 9), (16, 8, 3, 3)], False),
        ("convolution_backward", [(4, 16, 7, 7), (4, 8, 9, 9), (10, 8, 3, 3)], True),
        ("_scaled_dot_product_flash_attention", [(2, 4, 100, 64)] * 3, False),
        ("_scaled_dot_product_flash_attention_backward", [(2, 4, 9, 9), (2, 4, 100, 60)], True),
    ],
)
def test_odd_sizes(operation: str, operands: list[tuple[int, ...]], odd: bool) -> None:
    assert odd_sizes(operation, operands) == odd


def sampled(autocast: bool) -> dict:
    """Two layers of 64 and 10 units on 32 samples of 16."""
    model = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters())
    sample, products = Sample(NoLooks()), Profile(NoLooks())
    products.begin()
    sample.begin(list(model.parameters()))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(torch.randn(32, 16)).float().sum()
    sample.begin_pass([loss])
    loss.backward()
    sample.backward_done()
    return sample.end(list(model.parameters()), [optimizer]) | products.end()


def test_flops_of_odd_sizes_are_those_of_the_layer_of_ten() -> None:
    """The first layer: forward and its weight's gradient; the second has its input's gradient, too."""
    seen = sampled(autocast=False)
    first, second = 2 * 2 * 32 * 16 * 64, 3 * 2 * 32 * 64 * 10
    assert sum(seen["matmul_flops"].values()) == first + second
    assert seen["odd_flops"] == second


def test_casts_of_weights_are_counted_apart_from_activations() -> None:
    """bf16: the input 32x16 and the hidden 32x64 are kept; fp32 keeps the same numbers in twice the bytes."""
    plain, cast = sampled(autocast=False)["memory"], sampled(autocast=True)["memory"]
    assert (plain["activations"], plain["casts"]) == (4 * 32 * (16 + 64), 0)
    assert cast["activations"] == 2 * 32 * (16 + 64)
    # weights and biases: autocast casts both for a linear layer
    assert cast["casts"] == 2 * (16 * 64 + 64 + 64 * 10 + 10)


@pytest.mark.parametrize("compiled", [False, True])
def test_torch_func_runs_in_a_step_that_is_looked_at(compiled: bool) -> None:
    """PyTorch refuses it inside hooks on saved tensors, which are how the bytes kept for the backward pass are seen."""
    model = nn.Linear(16, 8)
    x, weights = torch.randn(32, 16), dict(model.named_parameters())

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    gradient: Any = torch.func.grad(loss)
    expected = gradient(weights)
    if compiled:  # for the first time in that step, without a break in its graph

        @torch.compile(backend="aot_eager", fullgraph=True)
        def gradient(parameters: dict[str, torch.Tensor]) -> Any:
            return torch.func.grad(loss)(parameters)

    sample, products = Sample(NoLooks()), Profile(NoLooks())
    products.begin()
    sample.begin(list(model.parameters()))
    seen = gradient(weights)
    with pytest.raises(RuntimeError, match="saved tensor hooks"), torch.autograd.graph.save_on_cpu():
        torch.func.grad(loss)(weights)  # hooks of the script's own are refused as ever
    fields = sample.end(list(model.parameters()), []) | products.end()
    assert all(torch.equal(seen[name], gradient) for name, gradient in expected.items())
    assert "activations" not in fields["memory"]
    assert "torch.func" in fields["memory_absent"]["activations"]
    assert sum(fields["matmul_flops"].values()) >= 2 * 2 * 32 * 16 * 8


def test_a_cast_of_a_sparse_matrix_is_passed_over() -> None:
    """Autocast casts it for a product, and it has no one storage; the two dense factors, 8x4 and 4x2, are counted."""
    graph = torch.eye(8).to_sparse()
    x, weight = torch.randn(8, 4), torch.nn.Parameter(torch.randn(4, 2))
    sample, products = Sample(NoLooks()), Profile(NoLooks())
    products.begin()
    sample.begin([weight])
    with torch.autocast("cpu", torch.bfloat16):
        loss = (graph @ (x @ weight)).float().sum()
    sample.begin_pass([loss])
    loss.backward()
    sample.backward_done()
    seen = sample.end([weight], []) | products.end()
    assert seen["memory"]["casts"] == 2 * 4 * 2
    assert seen["memory"]["activations"] >= 2 * 8 * 4
