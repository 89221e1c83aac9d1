from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.exact = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor, options: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        made = torch.zeros(2)
        out = self.norm(self.first(x)) * options["scale"]
        self.seen = {x.dtype, out.dtype, made.dtype}
        return out, made


@pytest.mark.parametrize(
    ("recipe", "dtype"), [("bf16-true", torch.bfloat16), ("fp16-true:loss_scale=1", torch.float16)]
)
def test_weights_inputs_and_what_is_made_inside_are_16_bit(begin, recipe: str, dtype: torch.dtype) -> None:
    begin(recipe)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    held = net.first.weight
    out, made = net(torch.randn(4, 4), {"scale": torch.ones(1)})
    assert net.seen == {dtype}
    assert out.dtype is made.dtype is torch.float32, "code outside of the model sees fp32"
    assert net.first.weight is held, "an optimizer made before holds the converted parameter"
    assert net.first.weight.dtype is net.norm.running_mean.dtype is dtype
    assert net.norm.num_batches_tracked.dtype is torch.int64
    assert net.exact.dtype is torch.float64
    assert torch.get_default_dtype() is torch.float32
    out.sum().backward()
    optimizer.step()
    assert optimizer.state[held]["momentum_buffer"].dtype is dtype


def a_new_weight(net: nn.Module) -> None:
    net[2].bias = nn.Parameter(torch.full((1,), 1 / 3))


def other_data(net: nn.Module) -> None:
    net[2].bias.data = torch.full((1,), 1 / 3)


def loaded(net: nn.Module) -> None:
    net.load_state_dict({name: value.float() / 3 for name, value in net.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: None,
        lambda net: net.float(),
        lambda net: net.__setitem__(2, nn.Linear(8, 1)),
        a_new_weight,
        other_data,
        loaded,
    ],
    ids=["nothing", "cast", "layer", "weight", "data", "checkpoint"],
)
def test_the_same_numbers_as_converting_by_hand(begin, change: Callable[[nn.Module], object]) -> None:
    """Also where the script changes the weights in mid-training, and gives them fp32."""

    def losses(by_hand: bool) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        x = torch.randn(16, 4)
        if by_hand:
            net, x = net.bfloat16(), x.bfloat16()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = []
        for step in range(5):
            if step == 2:
                change(net)
            loss = (net.bfloat16() if by_hand else net)(x).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses(by_hand=True)
    begin("bf16-true", products="native")
    assert losses(by_hand=False) == expected


def test_optimizers_hold_the_weights_where_casts_are_to_make_new_parameters(begin) -> None:
    begin("bf16-true")
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net(torch.ones(2, 4))
        assert torch.__future__.get_overwrite_module_params_on_conversion()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert optimizer.param_groups[0]["params"][0] is net.weight
    assert net.weight.dtype is torch.bfloat16


def test_a_script_may_cast_tensors_of_its_own_with_its_module(begin) -> None:
    """Its ``_apply`` takes a function alone, and so casts the parts of the module as well."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kept = nn.Linear(4, 4), nn.Linear(4, 4)
            self.scale = torch.full((4,), 0.5)

        def _apply(self, fn):  # type: ignore[override]
            super()._apply(fn)
            self.scale = fn(self.scale)
            return self

        def forward(self, x: Tensor) -> Tensor:
            self.seen = (self.layer(x) * self.scale).dtype
            return self.kept(self.layer(x) * self.scale)

    begin("bf16-true:keep=kept")
    net = Scaled()
    before = net.kept.weight.detach().clone()
    net(torch.ones(2, 4)).sum().backward()
    net(torch.ones(2, 4))
    assert net.seen is net.scale.dtype is net.layer.weight.dtype is torch.bfloat16
    assert torch.equal(net.kept.weight, before)


def test_lazy_layers_draw_the_numbers_that_they_draw_in_fp32(begin) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(4))
        net(torch.ones(2, 3, 8))
        return net

    expected = made().to(torch.bfloat16)
    begin("bf16-true")
    net = made()
    net(torch.ones(2, 3, 8)).sum().backward()
    for name, value in expected.named_parameters():
        assert torch.equal(net.get_parameter(name), value), name


@pytest.mark.parametrize("recipe", ["bf16", "bf16-true"])
def test_a_layer_is_parametrized_in_mid_training(begin, recipe: str) -> None:
    begin(recipe, products="native")
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    net(torch.ones(2, 4)).sum().backward()
    weight_norm(net[0])
    assert net[0].weight.dtype is net[1].weight.dtype
    net(torch.ones(2, 4)).sum().backward()
    assert net[0].parametrizations.weight.original1.grad.dtype is net[1].weight.dtype


def test_loaded_optimizer_state_follows_its_parameters(begin) -> None:
    """A resumed program loads its checkpoint before the model is called, and so converted, for the first time."""
    begin("bf16-true")
    x = torch.randn(4, 4)
    states = []
    for resumed in (False, True):
        net = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(net.parameters())
        if resumed:
            optimizer.load_state_dict(copy.deepcopy(states[0]))
        net(x).sum().backward()
        optimizer.step()
        states.append(copy.deepcopy(optimizer.state_dict()))
    first, second = (states[i]["state"][0] for i in range(2))
    assert first["exp_avg"].dtype is second["exp_avg"].dtype is torch.bfloat16
    assert first["step"].dtype is second["step"].dtype
    assert (first["step"], second["step"]) == (1, 2)


class Mixing(nn.Module):
    """A network with constants in fp32; ``cast`` and ``wide`` are what its author writes for 16 bits by hand."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.table = torch.randn(8, 8)
        self.dtype = dtype

    def cast(self, value: Tensor) -> Tensor:
        return value if self.dtype is None else value.to(self.dtype)

    def wide(self, value: Tensor) -> Tensor:
        return value if self.dtype is None else value.float()

    def encode(self, x: Tensor) -> Tensor:
        return self.norm(self.first(self.cast(x))) @ self.cast(self.table)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encode(x))


WEIGHT = torch.rand(4, generator=torch.Generator().manual_seed(1))
TARGET = torch.arange(16) % 4


def constant_in_a_loss(net: Mixing, x: Tensor) -> Tensor:
    return nn.CrossEntropyLoss(weight=WEIGHT)(net.wide(net(x)), TARGET)


def product_outside(net: Mixing, x: Tensor) -> Tensor:
    return (net.wide(net(x)) @ torch.outer(WEIGHT, WEIGHT)).square().mean()


def method_called_from_outside(net: Mixing, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net.wide(net.last(net.encode(x))), TARGET, weight=WEIGHT)


class Inside(nn.Module):
    def __init__(self, net: Mixing, body: Callable[[Mixing, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.body = net, body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.net, x)


def loss_inside(net: Mixing, x: Tensor) -> Tensor:
    return Inside(net, constant_in_a_loss)(net.cast(x))


def norm_of_fp32(net: Mixing, x: Tensor) -> Tensor:
    normed = Inside(net, lambda net, x: net.norm(net.cast(net.encode(x).float())))(net.cast(x))
    return net.wide(normed).square().mean()


def without_autocast_inside(net: Mixing, x: Tensor) -> Tensor:
    def body(net: Mixing, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return net.last(net.first(net.cast(x.float())))

    return net.wide(Inside(net, body)(net.cast(x))).square().mean()


def no_16_bit_kernel(net: Mixing, x: Tensor) -> Tensor:
    def body(net: Mixing, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(net.wide(net.encode(x))).abs()
        return net.last(net.cast(torch.cat([spectrum, spectrum[:, :3]], 1)))

    return net.wide(Inside(net, body)(net.cast(x))).square().mean()


def recurrent(net: Mixing, x: Tensor) -> Tensor:
    def body(net: Mixing, x: Tensor) -> Tensor:
        state = net.cast(torch.ones(1, 1, 8, dtype=torch.float32))
        return net.last(net.memory(net.cast(x.float())[None], (state, state))[0])

    return net.wide(Inside(net, body)(net.cast(x))).square().mean()


def packed(net: Mixing, x: Tensor) -> Tensor:
    def body(net: Mixing, x: Tensor) -> Tensor:
        rows = pack_sequence([net.cast(x[:9].float()), net.cast(x[9:].float())])
        return net.last(net.memory(rows)[0].data)

    return net.wide(Inside(net, body)(net.cast(x))).square().mean()


def recomputed(net: Mixing, x: Tensor) -> Tensor:
    return net.wide(checkpoint(net, net.cast(x), use_reentrant=False)).square().mean()


def compiled_around(net: Mixing, x: Tensor) -> Tensor:
    return torch.compile(constant_in_a_loss, backend="eager", fullgraph=True)(net, x)


MIXED = [
    constant_in_a_loss,
    product_outside,
    method_called_from_outside,
    loss_inside,
    norm_of_fp32,
    without_autocast_inside,
    no_16_bit_kernel,
    recurrent,
    packed,
    recomputed,
    compiled_around,
]


@pytest.mark.parametrize(
    ("recipe", "dtype"), [("bf16-true", torch.bfloat16), ("fp16-true:loss_scale=1", torch.float16)]
)
@pytest.mark.parametrize("loss_of", MIXED)
def test_fp32_constants_meet_16_bit_numbers_as_casts_by_hand_let_them(
    begin, loss_of: Callable[[Mixing, Tensor], Tensor], recipe: str, dtype: torch.dtype
) -> None:
    def trained(by_hand: bool) -> list[Tensor]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        net = Mixing(dtype if by_hand else None)
        if by_hand:
            net.to(dtype)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        found = []
        for _ in range(3):
            loss = loss_of(net, torch.randn(16, 8))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return [*found, *(p.detach() for p in net.parameters() if p.grad is not None)]

    expected = trained(by_hand=True)
    begin(recipe, products="native")
    found = trained(by_hand=False)
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("recipe", "dtype"), [("bf16-true", torch.bfloat16), ("fp16-true:loss_scale=1", torch.float16)]
)
def test_weights_of_a_function_transform_are_cast_for_the_call(
    begin, recipe: str, dtype: torch.dtype
) -> None:
    """As casts by hand do it, to the bit; the program's own stay as they are, and are converted at a call of theirs."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    x = torch.randn(6, 4)

    def loss(given: dict[str, Tensor], held: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(net, (given, held), (x,)).float().square().mean()

    def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(dtype) if t.is_floating_point() else t.clone() for name, t in tensors.items()}

    def by_hand(given: dict[str, Tensor], held: dict[str, Tensor], x: Tensor) -> Tensor:
        return loss(narrow(given), held, x.to(dtype))

    rounded = narrow(buffers)
    expected = torch.func.grad(by_hand)(weights, rounded, x)
    begin(recipe)
    found = torch.func.grad(loss)(weights, buffers, x)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    for name, held in rounded.items():
        assert torch.equal(buffers[name], held.to(buffers[name].dtype)), name
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    net(x)
    assert {p.dtype for p in net.parameters()} == {dtype}


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_have_sparse_gradients(begin, mode: str) -> None:
    rows = torch.randint(0, 10, (6, 3))
    expected = nn.EmbeddingBag(10, 4, mode=mode, sparse=True)
    bag = copy.deepcopy(expected)
    expected.to(torch.bfloat16)(rows).float().square().sum().backward()
    begin("bf16-true")
    bag(rows).square().sum().backward()
    assert bag.weight.grad.is_sparse
    assert torch.equal(bag.weight.grad.to_dense(), expected.weight.grad.to_dense())
