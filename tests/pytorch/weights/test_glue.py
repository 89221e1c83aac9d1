"""A program that holds 16 bits names dtypes, turns autocast off and calls parts by itself: no row ends or narrows by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.recording.products import ProductCounter

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


class Literal(nn.Module):
    """Written for bf16: its author names that dtype wherever he casts a tensor or makes one like another; ``to`` says what he wrote."""

    def __init__(self, to: torch.dtype) -> None:
        super().__init__()
        self.to_dtype, self.first, self.last = to, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        to = self.to_dtype
        h = self.first(x.to(to)).to(dtype=to, device=x.device)
        rows = x.new_zeros(4, 8, dtype=to).index_add_(0, torch.arange(4, device=x.device), h)
        kept = torch.empty_like(rows, dtype=to)
        kept[:] = rows / 3
        share = kept.softmax(-1, dtype=to) + h.new_full((8,), 1 / 3, dtype=to) + kept.cumsum(-1, dtype=to)
        narrow = (h.bfloat16() + h.half()) / 7 if to is not FP32 else (h + h) / 7
        nothing = (
            torch.full((8,), 1 / 3, dtype=to) * torch.linspace(0, 1, 8, dtype=to)
            + torch.arange(8, dtype=to) / 7
        )
        return self.last(share.type(to) + narrow + torch.zeros(8, dtype=to).type_as(rows) + nothing)


def literal(to: torch.dtype) -> Literal:
    torch.manual_seed(4)
    return Literal(to)


def test_what_is_made_on_a_device_of_its_own_is_named_by_the_script(begin) -> None:
    """PyTorch hands such calls on by Python code of its own."""
    begin("fp32")
    nn.Linear(2, 2, dtype=BF16)(torch.ones(1, 2))
    with torch.device("cpu"):
        made = [torch.ones(2).to(BF16), torch.zeros(2, dtype=BF16), torch.ones(2).half()]
    assert {tensor.dtype for tensor in made} == {FP32}


@pytest.mark.parametrize("compiled", [False, True])
def test_dtypes_that_a_model_names_are_fp32_in_an_fp32_row(begin, compiled: bool) -> None:
    x = torch.randn(4, 8)
    expected = literal(FP32)
    out = expected(x)
    out.square().sum().backward()
    begin("fp32")
    net = literal(BF16).to(BF16)
    found = torch.compile(net, backend="aot_eager", fullgraph=True)(x) if compiled else net(x)
    found.square().sum().backward()
    assert torch.equal(found, out)
    assert torch.equal(net.first.weight.grad, expected.first.weight.grad)
    assert x.to(BF16).dtype is x.bfloat16().dtype is torch.zeros(1, dtype=BF16).dtype is FP32, (
        "outside of a model"
    )


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dtypes_that_a_compiled_model_names(begin) -> None:
    x = torch.randn(4, 8)
    expected = literal(FP32)(x)
    begin("fp32")
    assert torch.allclose(torch.compile(literal(BF16).to(BF16))(x), expected, rtol=1e-6, atol=1e-6)


def test_what_is_made_from_nothing_in_16_bits_is_computed_in_fp32(begin) -> None:
    class Makes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> list[Tensor]:
            made = torch.arange(8, dtype=BF16).div(7)
            rows = made.repeat(4, 1)
            return [made.softmax(-1), made.sum(), rows.mean(0), torch.dot(made, x[0]), self.norm(rows) * x]

    x = torch.randn(4, 8)
    made = torch.arange(8, dtype=FP32).div(7)
    rows = made.repeat(4, 1)
    begin("fp32")
    net = Makes().half()
    true = [made.softmax(-1), made.sum(), rows.mean(0), torch.dot(made, x[0]), F.layer_norm(rows, (8,)) * x]
    assert all(torch.equal(a, b) for a, b in zip(net(x), true, strict=True))


class Held:
    """What entering a model does not look into."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class HoldsMore(nn.Module):
    """16-bit numbers that are neither parameters nor buffers: an attribute, in a list, in an object, from a hook."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.net, self.norm = nn.Linear(8, 8), nn.Identity()
        self.scale, self.rows = (torch.rand(8).bfloat16().to(dtype) for _ in range(2))
        table = torch.rand(4, 8).bfloat16().to(dtype)
        self.norm.register_forward_hook(
            lambda module, given, out: out + (table / 3 + table.sigmoid() * table.std())
        )

    def forward(self, held: Held) -> Tensor:
        return self.net(self.norm(held.x / 3 * torch.tanh(self.scale) + [self.rows][0] ** 3))


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_neither_a_parameter_nor_given_is_computed_in_fp32(begin, compiled: bool) -> None:
    x = torch.randn(4, 8).to(BF16)
    expected = HoldsMore(FP32)(Held(x.float()))
    begin("fp32")
    net = HoldsMore(BF16).to(BF16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    run = torch.compile(net, backend="aot_eager") if compiled else net
    for _ in range(2):  # kernels that the first step has used stay
        out = run(Held(x))
        assert torch.equal(out, expected)
        out.sum().backward()
        optimizer.step()


class Remembers(nn.Module):
    """It writes what it has computed into tensors of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.net, self.seen = nn.Linear(8, 8), torch.zeros(4, 8, dtype=dtype)
        self.register_buffer("mean", torch.zeros(8, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(out.mean(0), alpha=0.1)
            self.seen[:2] = out[:2]
        return out + self.mean + self.seen.std(0)


def test_what_a_model_writes_into_tensors_of_its_own_is_fp32(begin) -> None:
    x = torch.randn(4, 8).to(BF16)
    true = Remembers(FP32)
    expected = [true(x.float()), true(x.float())]
    begin("fp32")
    net = Remembers(BF16).to(BF16)
    assert all(torch.equal(net(x), out) for out in expected)


def test_a_program_whose_models_meet_no_such_numbers_pays_nothing_for_it(begin) -> None:
    takeover = begin("fp32")
    net = nn.Linear(8, 8, dtype=BF16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    multiplies = "aten::mul.Tensor", "AutocastCPU"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(*multiplies)
    net(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(*multiplies)
    takeover.remove()


def test_what_a_loss_is_computed_from_is_not_cast_to_16_bits(begin) -> None:
    begin("fp32")
    net, x = nn.Linear(8, 8, dtype=BF16), torch.randn(4, 8).to(BF16)
    out = net(x)
    assert out.type_as(x).dtype is out.to(BF16).dtype is out.to(x).dtype is FP32
    assert out.detach().type_as(x).dtype is FP32
    saved = {name: value.to(BF16) for name, value in net.state_dict().items()}
    assert {value.dtype for value in saved.values()} == {BF16}, "weights may be about to be saved"


class Gated(torch.autograd.Function):
    """A kernel that wants one dtype of both."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        assert x.dtype is weight.dtype
        ctx.save_for_backward(x, weight)
        return x.sigmoid() @ weight

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        assert gradient.dtype is x.dtype is weight.dtype
        share = x.sigmoid()
        return gradient @ weight.T * share * (1 - share), share.T @ gradient


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_a_function_of_a_16_bit_program_that_wants_one_dtype(begin, recipe: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return Gated.apply(self.first(x), self.weight)

    net, x = Net(), torch.randn(4, 8).to(BF16)
    for parameter in net.parameters():
        parameter.data = parameter.data.to(BF16)
    first, weight = net.first.weight.detach().float(), net.weight.detach().float().requires_grad_()
    true = torch.sigmoid(F.linear(x.float(), first, net.first.bias.float())) @ weight
    true.sum().backward()
    begin(recipe, products="native")
    out = net(x)
    out.sum().backward()
    close = {"fp32": 1e-6, "bf16": 0.03, "fp16": 0.004}[recipe]
    assert torch.allclose(out, true, rtol=close, atol=close)
    assert net.weight.grad.dtype is FP32
    assert torch.allclose(net.weight.grad, weight.grad, rtol=close, atol=close)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_program_with_fp32_weights_that_casts_in_its_model(begin, compiled: bool) -> None:
    class Casts(nn.Linear):
        def __init__(self, to: torch.dtype) -> None:
            torch.manual_seed(4)
            super().__init__(8, 8)
            self.to_dtype = to

        def forward(self, x: Tensor) -> Tensor:
            x = x.to(self.to_dtype)
            share = torch.full((8,), 1 / 3, dtype=self.to_dtype).softmax(-1)
            return F.linear(x, self.weight.to(x.dtype), self.bias.type_as(x)).tanh() * share

    x = torch.randn(4, 8)
    expected = Casts(FP32)(x)
    takeover = begin("fp32")
    told: list[dict[str, str]] = []
    takeover.recorder.write = lambda event, **fields: told.append(fields) if event == "own_amp" else None
    net = Casts(BF16)
    run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
    with ProductCounter() as counter:
        found = [run(x), run(x)]
    assert all(torch.equal(out, expected) for out in found)
    assert compiled or set(counter.flops) == {"fp32"}
    assert told[0]["asks"] == "bf16"


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_plain_program_pays_nothing_for_casts_after_its_first_step(begin, by_hand: bool) -> None:
    names = ("aten::to.dtype", "aten::zeros")
    before = [torch._C._dispatch_dump(name) for name in names]
    takeover = begin("fp32")
    assert [torch._C._dispatch_dump(name) for name in names] != before
    net = nn.Linear(8, 8)
    optimizer = None if by_hand else torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net(torch.ones(4, 8)).sum().backward()
        if optimizer is None:
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
        else:
            optimizer.step()
    assert [torch._C._dispatch_dump(name) for name in names] == before
    assert torch.zeros(4, 8, dtype=FP16).dtype is FP16
    takeover.remove()


class Frozen(nn.Module):
    """A frozen base in bf16 that its author calls inside and outside of autocast."""

    def __init__(self, recomputed: bool = False) -> None:
        super().__init__()
        self.base, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.base.requires_grad_(False).to(BF16)
        self.recomputed = recomputed

    def part(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.base(self.norm(x)).float().logsumexp(-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.part, x, use_reentrant=False) if self.recomputed else self.part(x)
        return self.head(self.base(x) * y)


def frozen(loaded: Sequence[Tensor], recomputed: bool) -> Frozen:
    """Its frozen base has the weights of a checkpoint."""
    torch.manual_seed(5)
    net = Frozen(recomputed)
    for parameter, weight in zip(net.base.parameters(), loaded, strict=True):
        parameter.data = weight
    return net


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_frozen_base_where_autocast_is_off(begin, recipe: str, own: bool, recomputed: bool) -> None:
    """Inside a forward pass that asks for full precision, and in an evaluation outside of the script's own region."""
    x = torch.randn(4, 8, requires_grad=True)

    def run(net: nn.Module, region: object) -> list[Tensor]:
        optimizer = torch.optim.SGD(net.head.parameters(), lr=0.1)
        with region:
            out = net(x)
        out.float().square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            evaluated = net(x)
        gradient, x.grad = x.grad, None
        return [out.float(), gradient, net.head.weight.grad, evaluated]

    amp = {"fp32": None, "bf16": BF16}[recipe]
    loaded = [torch.randn(p.shape).div_(3).to(BF16) for p in Frozen(recomputed).base.parameters()]
    widened = [weight.to(FP32) for weight in loaded]
    true = run(frozen(widened, recomputed), torch.autocast("cpu", amp) if amp else nullcontext())
    begin(recipe, products="native")
    found = run(frozen(loaded, recomputed), torch.autocast("cpu", BF16) if own else nullcontext())
    assert all(torch.equal(a, b) for a, b in zip(found[:3], true[:3], strict=True))
    assert found[3].dtype is FP32
    if recipe == "fp32" or own:
        assert torch.equal(found[3], true[3])


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_backward_pass_of_a_16_bit_program_computes_in_16_bits(begin, reentrant: bool) -> None:
    """It calls modules to recompute activations; what comes after them is computed as what came before."""

    class Recomputes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(8, 8, dtype=BF16) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = checkpoint(part, x, use_reentrant=reentrant)
            return x

    begin("bf16", products="native")
    with ProductCounter() as counter:
        Recomputes()(torch.randn(4, 8, requires_grad=True)).sum().backward()
    assert set(counter.flops) == {"bf16"}


class PerceptualLoss(nn.Module):
    """A frozen network that is used as a loss, outside of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        return F.mse_loss(self.features(found), self.features(wanted))


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_frozen_network_in_16_bits_as_a_loss(begin, recipe: str) -> None:
    torch.manual_seed(6)
    loss, net, x = (
        PerceptualLoss().to(FP16).requires_grad_(False),
        nn.Sequential(nn.Linear(8, 8)),
        torch.randn(4, 8),
    )
    begin(recipe, products="native")
    out = net(x)
    value = loss(out, x.to(FP16))
    value.backward()
    features = [
        nn.functional.layer_norm(t @ loss.features[0].weight.float().T + loss.features[0].bias.float(), (8,))
        for t in (out, x.to(FP16).float())
    ]
    assert torch.allclose(value, F.mse_loss(*features), rtol=1e-4)
    assert value.dtype is FP32
    assert net[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("recipe", "amp"), [("fp32", None), ("bf16", BF16)])
def test_parameters_in_no_module_meet_data_in_16_bits(begin, recipe: str, amp) -> None:
    def losses(dtype: torch.dtype) -> list[float]:
        torch.manual_seed(7)
        first, second = (torch.randn(n, m).mul_(0.3).to(BF16).to(dtype) for n, m in ((8, 16), (16, 1)))
        weights = [first.requires_grad_(), second.requires_grad_()]
        x = torch.randn(64, 8).to(BF16)
        optimizer = torch.optim.SGD(weights, lr=1e-2)
        found = []
        for _ in range(4):
            with torch.autocast("cpu", amp) if amp and dtype is FP32 else nullcontext():
                out = torch.tanh(x.to(dtype) @ first) @ second
                loss = (out - x.float().sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses(FP32)
    begin(recipe, products="native")
    assert losses(BF16) == expected


#: as a file has them
FILES = {
    dtype: torch.linspace(0, 1, 8).to(dtype).view(torch.uint8).numpy().tobytes() for dtype in (BF16, FP16)
}


def sixteen_bit_data(dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(FILES[dtype]), dtype=dtype)


I8 = torch.arange(8)

#: what data in 16 bits meet before they enter a model: numbers, integers and single values have no dtype to promote to
MET_BY_DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda a: (a / 7 - 1) * 0.3,
    "a number, in place": lambda a: a.clone().div_(7).sub_(0.1).mul_(3),
    "integers": lambda a: a * I8 + a - I8,
    "integers, in place": lambda a: a.clone().add_(I8).mul_(I8),
    "a truth": lambda a: a * (I8 > 3),
    "a single value": lambda a: a * torch.tensor(1 / 3) + torch.tensor(2),
    "the larger": lambda a: torch.maximum(a, I8) + torch.fmin(a, I8).clamp(max=torch.tensor(3)),
    "a choice": lambda a: torch.where(I8 > 3, a, I8) + torch.where(I8 > 3, a, 0.3),
    "a comparison": lambda a: (a * 7 > I8).to(torch.int64) + a.eq(1),
    "its own statistics": lambda a: (a - a.mean()) / (a.std() + 1e-3),
    "several at once": lambda a: torch._foreach_add(torch._foreach_mul([a, a], 0.3), [a, I8])[1],
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("met", MET_BY_DATA)
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_data_in_16_bits_meet_numbers_as_in_python(begin, recipe: str, met: str, mode) -> None:
    with mode():
        expected = [MET_BY_DATA[met](sixteen_bit_data(dtype)) for dtype in (BF16, FP16)]
    begin(recipe, products="native")
    nn.Linear(2, 2, dtype=BF16)(torch.ones(1, 2))  # the program is found to hold 16-bit numbers
    with mode():
        found = [MET_BY_DATA[met](sixteen_bit_data(dtype)) for dtype in (BF16, FP16)]
    assert [made.dtype for made in found] == [made.dtype for made in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("met", MET_BY_DATA)
def test_data_in_16_bits_inside_a_model_are_computed_in_fp32(begin, met: str) -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), MET_BY_DATA[met](sixteen_bit_data(BF16))

    expected = MET_BY_DATA[met](sixteen_bit_data(BF16).float())
    begin("fp32")
    found = Reads(2, 2, dtype=BF16)(torch.ones(1, 2))[1]
    torch.testing.assert_close(found.float(), expected.float(), rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_numbers_under_vmap(begin, recipe: str) -> None:
    """PyTorch casts the number, where it hands tensors to the kernels of a program that holds no 16 bits as yet."""
    rows = torch.linspace(0, 1, 8, dtype=torch.float64)
    expected = torch.vmap(lambda row: row * 0.1 + 1)(rows), torch.vmap(lambda row: row * 0.5)(rows.float())
    begin(recipe, products="native")
    assert torch.equal(torch.vmap(lambda row: row * 0.1 + 1)(rows), expected[0])
    assert torch.equal(torch.vmap(lambda row: row * 0.5)(rows.float()), expected[1])
