"""In a region an operation of a 16-bit and an fp32 operand works as plain fp32 code wrote it.

The reference is the operation itself in fp32, on the 16-bit operand widened: promotion is exact, so is equality.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.autocast import mixed_operands

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")

INDEX = torch.tensor([2, 0, 3, 1])
COLUMN = INDEX[:, None].expand(4, 4)


def into_a_canvas(x: Tensor, low: Tensor) -> Tensor:
    canvas = torch.zeros(4, 4)
    canvas[INDEX] = low
    canvas[x > 0] = low[x > 0]
    return canvas


def csr(x: Tensor) -> Tensor:
    return x.to_sparse_csr()


def observed(low: Tensor) -> list[Tensor]:
    """As the layers of quantization-aware training do it: [result, smallest, largest]."""
    on, smallest, largest = (
        torch.ones(1, dtype=torch.int64),
        torch.tensor(torch.inf),
        torch.tensor(-torch.inf),
    )
    scale, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    made = torch.fused_moving_avg_obs_fake_quant(
        low, on, on, smallest, largest, scale, zero, 0.01, 0, 255, 0, False
    )
    return [made, smallest, largest]


#: name -> operation of an fp32 tensor and of one that a layer made
OPERATIONS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "canvas[index] = low": into_a_canvas,
    "index_put": lambda x, low: x.index_put((INDEX,), low),
    "index_put of a 16-bit canvas": lambda x, low: low.index_put((INDEX,), x),
    "index_add_": lambda x, low: x.clone().index_add_(0, INDEX, low),
    "index_add": lambda x, low: low.index_add(0, INDEX, x),
    "index_copy_": lambda x, low: x.clone().index_copy_(0, INDEX, low),
    "index_reduce_": lambda x, low: x.clone().index_reduce_(0, INDEX, low, "amax"),
    "put_": lambda x, low: x.clone().put_(INDEX, low[0]),
    "scatter_": lambda x, low: x.clone().scatter_(0, COLUMN, low),
    "scatter_add_": lambda x, low: x.clone().scatter_add_(0, COLUMN, low),
    "scatter_reduce": lambda x, low: x.scatter_reduce(0, COLUMN, low, "sum"),
    "masked_scatter": lambda x, low: x.masked_scatter(x > 0, low),
    "lerp": lambda x, low: torch.lerp(x, low, 0.5),
    "lerp_": lambda x, low: x.clone().lerp_(low, 0.25),
    "dot": lambda x, low: torch.dot(x[0], low[0]),
    "inner": torch.inner,
    "tensordot": lambda x, low: torch.tensordot(x, low, dims=2),
    "cross": lambda x, low: torch.cross(x[:, :3], low[:, :3], dim=1),
    "complex": torch.complex,
    "complex of 16-bit numbers alone": lambda x, low: torch.complex(low, low) * torch.complex(low, x),
    "product of complex numbers": lambda x, low: torch.complex(low, low) @ torch.complex(low, low),
    "weight norm": lambda x, low: torch._weight_norm(low, x[:, :1], 0),
    "sparse softmax": lambda x, low: torch.sparse.softmax(low.to_sparse(), 1).to_dense(),
    "sparse log-softmax": lambda x, low: torch.sparse.log_softmax(low.to_sparse(), 1).to_dense(),
    "allclose": torch.allclose,
    "isclose": torch.isclose,
    "meshgrid": lambda x, low: torch.meshgrid(x[0], low[0], indexing="ij"),
    "heaviside": torch.heaviside,
    "solve": lambda x, low: (
        torch.linalg.solve(low.mT @ low + torch.eye(4), x) if low.dtype is x.dtype else None
    ),
    "norms of a matrix": lambda x, low: [
        torch.linalg.matrix_norm(low, ord=o) for o in (2, -2, "nuc", "fro", 1)
    ],
    "norm('nuc')": lambda x, low: [low.norm("nuc"), torch.linalg.norm(low, ord="nuc")],
    "cond and rank": lambda x, low: [torch.linalg.cond(low), torch.linalg.matrix_rank(low)],
    "det": lambda x, low: torch.linalg.det(low),
    "cholesky": lambda x, low: torch.linalg.cholesky_ex(low)[0],
    "fft": lambda x, low: torch.fft.rfft(low),
    "sparse.mm": lambda x, low: torch.sparse.mm(x.to_sparse(), low),
    "sparse.addmm": lambda x, low: torch.sparse.addmm(low, x.to_sparse(), low),
    "sparse.mm of CSR, by its mean": lambda x, low: torch.sparse.mm(csr(x), low, "mean"),
    "sampled_addmm": lambda x, low: torch.sparse.sampled_addmm(csr(x), low, low.mT).to_dense(),
    "pdist": lambda x, low: nn.functional.pdist(low),
    "fake quantization of a tensor": lambda x, low: torch.fake_quantize_per_tensor_affine(low, 0.1, 0, -8, 7),
    "fake quantization of channels": lambda x, low: torch.fake_quantize_per_channel_affine(
        low, torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int32), 0, -8, 7
    ),
    "fake quantization by an observer": lambda x, low: observed(low),
    "erfcx": lambda x, low: torch.special.erfcx(low),
    "gamma": lambda x, low: torch.distributions.Gamma(low.exp(), 1.0).rsample(),
    "beta": lambda x, low: torch.distributions.Beta(low.exp(), x.exp()).rsample(),
    "dirichlet": lambda x, low: torch.distributions.Dirichlet(low.exp()).rsample(),
}


def flat(value: object) -> list[Tensor]:
    values = value if isinstance(value, tuple | list) else [value]
    return [item if isinstance(item, Tensor) else torch.tensor(item) for item in values if item is not None]


@pytest.mark.filterwarnings("ignore:index_reduce.. is in beta:UserWarning")
@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_mixed_operands_are_promoted(begin, recipe: str, name: str) -> None:
    takeover = begin(recipe)
    x, low = torch.randn(4, 4), torch.randn(4, 4).to(takeover.regions.dtype)
    if name in (
        "gamma",
        "beta",
        "dirichlet",
    ):  # exp() of a 16-bit number is rounded before the operation sees it
        with takeover.regions.region():
            assert all(t.isfinite().all() for t in flat(OPERATIONS[name](x, low)))
        return
    expected = flat(OPERATIONS[name](x, low.float()))
    with takeover.regions.region():
        found = flat(OPERATIONS[name](x, low))
    for ours, exact in zip(found, expected, strict=False):
        assert torch.equal(ours.to(exact.dtype), exact) or ours.isnan().equal(exact.isnan())


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_products_of_sparse_matrices_are_computed_in_fp32_and_rounded(begin, recipe: str) -> None:
    takeover = begin(recipe)
    dtype = takeover.regions.dtype
    dense = torch.randint(-1, 2, (4, 4)).float()
    matrix, batch, low = (
        csr(dense),
        torch.stack([dense, dense]).to_sparse(),
        torch.randn(4, 4).to(dtype).requires_grad_(),
    )
    exact = (dense @ low.float()).to(dtype)
    with takeover.regions.region():
        found = [
            matrix @ low,
            torch.bmm(batch, torch.stack([low, low]))[1],
            torch.addmm(low * 0, matrix, low),
        ]
        found.append((matrix @ low[:, 0])[:, None].expand(4, 4))
        found[0].sum().backward()
    assert all(torch.equal(ours[:, :1], exact[:, :1]) for ours in found)
    assert torch.equal(low.grad, dense.sum(0)[:, None].expand(4, 4).to(dtype))


def test_what_is_written_in_place_keeps_its_dtype(begin) -> None:
    takeover = begin("bf16")
    low = torch.zeros(4, 4, dtype=torch.bfloat16)
    with takeover.regions.region():
        low.index_add_(0, INDEX, torch.randn(4, 4))
    assert low.dtype is torch.bfloat16


def test_gradients_reach_both_operands(begin) -> None:
    takeover = begin("bf16")
    x = torch.randn(4, 4, requires_grad=True)
    low = torch.randn(4, 4, dtype=torch.bfloat16, requires_grad=True)
    with takeover.regions.region():
        (x * 1).index_add_(0, INDEX, low).sum().backward()
    assert torch.equal(x.grad, torch.ones(4, 4))
    assert torch.equal(low.grad, torch.ones(4, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_gradients_of_dirichlet_samples_are_those_of_fp32(begin, recipe: str) -> None:
    takeover = begin(recipe)
    exact = torch.tensor([0.5, 1.5, 2.0, 4.0], requires_grad=True)
    low = exact.detach().to(takeover.regions.dtype).requires_grad_()
    weights = torch.arange(4.0)
    for concentration in (exact, low):
        torch.manual_seed(0)
        with takeover.regions.region():
            sample = torch.distributions.Dirichlet(concentration).rsample()
        (sample * weights).sum().backward()
    assert torch.equal(low.grad, exact.grad.to(low.dtype))


class Canvas(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(8, 4).index_add(0, INDEX, self.encode(x))


def test_a_compiled_model_is_as_the_eager_one(begin) -> None:
    begin("bf16")
    torch.compiler.reset()
    model, x = Canvas(), torch.randn(4, 4)
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x))


def test_outside_of_regions_pytorch_raises_as_ever(begin) -> None:
    begin("bf16")
    with pytest.raises(RuntimeError, match="same scalar type"):
        torch.zeros(4, 4).index_add_(0, INDEX, torch.randn(4, 4).bfloat16())


def test_every_name_of_the_tables_is_an_operation() -> None:
    """Of this version of PyTorch; older ones lack some."""
    names = (*mixed_operands.PROMOTED, *mixed_operands.IN_FP32)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(torch.ops.aten, name)] == []
