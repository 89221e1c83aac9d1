"""Products against the same arithmetic with float64 sums: of autocast's lists, and of a step of the examples' models."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstep.precisions.recipes import parse
from halfstep.pytorch.emulation.emulate import Emulated
from halfstep.pytorch.emulation.ops import Emulation
from halfstep.pytorch.products import products

from ..examples.conftest import EXAMPLES
from .autocast_lists import cases, change
from .referee import judging

PRECISIONS = ("tf32", "fp8", "mxfp8", "mxfp4", "nvfp4", "bf16", "fp16")
SIXTEEN = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: what the lists hold that matrix units compute; all else of them must not be touched
PRODUCTS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "convolution",
        "addmm",
        "matmul",
        "einsum",
        "mm",
        "chain_matmul",
        "addbmm",
        "baddbmm",
        "bmm",
        "lstm_cell",
        "gru_cell",
        "rnn_tanh_cell",
        "rnn_relu_cell",
        "tensordot",
        "linear",
        "linalg_multi_dot",
        "__matmul__",
        "_addmm_activation",
        "conv_tbc",
        "_convolution",
        "mv",
        "addmv",
    ]
)

#: cuBLAS computes these outside of the matrix units, in fp32
VECTORS = ("mv", "addmv")

#: 16-bit ones that end with more than a product's own rounding, so that no product is seen
FUSED = ("_addmm_activation", "conv_tbc", "_convolution", *VECTORS)

#: below what a program calls, or, as in bilinear, products inside one of PyTorch's kernels, which no mode sees
INTERNAL = ("_native_multi_head_attention", "bilinear")

CASES = {
    f"{device}-{case.listed}-{i}-{case.name}": case
    for device in ("cpu", "cuda")
    for i, case in enumerate(cases(device))
    if case.listed not in ("torch_expect_builtin_promote", "methods_expect_builtin_promote")
}


@pytest.fixture(params=PRECISIONS)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """A precision's products in force, and the dtype of its tensors."""
    recipe = parse(request.param)
    if request.param in SIXTEEN:
        installed: Any = products.install([SIXTEEN[request.param]])
    else:
        installed = Emulated(Emulation(recipe.name, recipe.compute, recipe.gradients))
    yield SIXTEEN.get(request.param, torch.float32)
    installed.remove()


@pytest.mark.filterwarnings("ignore:(?s).*deprecated:UserWarning")  # of the lists' own calls
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.name in PRODUCTS])
def test_products_of_autocasts_lists(
    name: str, arithmetic: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """Forward and backward; each product within the bound of accumulation in fp32."""
    case = CASES[name]
    if arithmetic is not torch.float32 and case.name in FUSED:
        pytest.skip("no product of its own in 16 bits")
    if case.name in VECTORS and "tf32" in request.node.callspec.id:
        pytest.skip("stays fp32 in tf32")
    leaves: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        leaves.append(x.detach().to(arithmetic).clone().requires_grad_(case.name[0] != "_"))
        return leaves[-1]

    args = change(case.args, leaf)
    with judging() as referee:
        result = case.call(*args, **case.kwargs)
        first = result[0] if isinstance(result, tuple) else result
        if first.requires_grad:
            first.sum().backward()
    assert 0 <= referee.worst <= 1


@pytest.mark.filterwarnings("ignore:(?s).*deprecated:UserWarning")
@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c.name not in PRODUCTS and c.name not in INTERNAL]
)
def test_what_is_no_product_is_fp32s_bit_for_bit(name: str) -> None:
    case = CASES[name]
    args = change(case.args, lambda x: x.float())

    def result() -> list[Tensor]:
        torch.manual_seed(0)
        found = case.call(*args, **case.kwargs)
        return [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, Tensor)]

    plain = result()
    emulated = Emulated(Emulation("fp8", "fp8_e4m3", "fp8_e5m2"))
    try:
        got = result()
    finally:
        emulated.remove()
    assert all(torch.equal(a, b) or (a != a).any() for a, b in zip(got, plain, strict=True))


def gpt(module: ModuleType) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    preset = module.Preset(2, 2, 32, 16, 64, 2, 1e-3)
    tokens = torch.randint(64, (4, 17))
    return module.GPT(preset), lambda model: model(tokens[:, :-1], tokens[:, 1:])


def resnet(module: ModuleType) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    images, labels = torch.randn(8, 1, 16, 16), torch.randint(10, (8,))
    return module.ResNet(8), lambda model: F.cross_entropy(model(images), labels)


def load(name: str) -> ModuleType:
    """An example as a module; its training does not run."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("example", "make"), [("char_gpt", gpt), ("digits_cnn", resnet)])
def test_a_step_of_the_examples(example: str, make: Any, arithmetic: torch.dtype) -> None:
    """Every product of the step, on the operands that it really had: what differs is accumulation alone."""
    model, loss = make(load(example))
    with judging() as referee, torch.autocast("cpu", arithmetic, enabled=arithmetic is not torch.float32):
        value = loss(model)
        value.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert referee.judged.total() >= 20  # at least two a layer
