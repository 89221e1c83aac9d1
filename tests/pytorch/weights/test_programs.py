"""Programs that name 16 bits in many places: under fp32 they are to the bit what they are with float32 in these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch import round_to

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

#: the losses of a training and the weights after it
Found = list[Any]
LossOf = Callable[[nn.Module, Tensor], Tensor]


def stored(net: nn.Module) -> nn.Module:
    """``net`` with values that 16 bits have, in whatever dtype it is."""
    torch.manual_seed(1)
    values = {name: torch.randn(value.shape) / 3 for name, value in net.state_dict().items() if value.dim()}
    net.load_state_dict({name: round_to(value, "bf16") for name, value in values.items()}, strict=False)
    return net


def mlp(dtype: torch.dtype) -> nn.Module:
    return stored(nn.Sequential(nn.Linear(8, 16, dtype=dtype), nn.GELU(), nn.Linear(16, 8, dtype=dtype)))


def fit(net: nn.Module, loss_of: LossOf, optimizer: Any = None) -> Found:
    """Four steps on numbers that 16 bits have."""
    optimizer = optimizer or torch.optim.AdamW(net.parameters(), lr=1e-2)
    torch.manual_seed(2)
    losses = []
    for x in round_to(torch.randn(4, 6, 8), "bf16"):
        loss = loss_of(net, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, *(parameter.detach().clone() for parameter in net.parameters())]


def square(y: Tensor) -> Tensor:
    return y.float().square().mean()


class Makes(nn.Module):
    """A model whose forward pass makes tensors of a dtype that it names."""

    def __init__(self, dtype: torch.dtype, make: Callable[[Tensor, torch.dtype], Tensor]) -> None:
        super().__init__()
        self.net, self.make, self.dtype = mlp(dtype), make, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.make(x, self.dtype)


def filled(x: Tensor, dtype: torch.dtype) -> Tensor:
    made = torch.empty(6, 8, dtype=dtype)
    made[:] = x / 3
    return made.mul_(1 / 7).add_(x / 3)


def as_out(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.div(x, 3, out=torch.empty_strided((6, 8), (8, 1), dtype=dtype))


def from_numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    rows = torch.stack([torch.tensor(i / 7, dtype=dtype) for i in range(8)]).exp()
    return rows + x.new_tensor([1 / 3] * 8, dtype=dtype) + torch.as_tensor(np.ones(8) / 7, dtype=dtype)


def like_another(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_tensor([1 / 3] * 8, dtype=dtype) / 7


def chosen(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(x > 0, torch.tensor(1 / 3, dtype=dtype), torch.asarray(1 / 7, dtype=dtype))


def from_numpy(x: Tensor, dtype: torch.dtype) -> Tensor:
    made = torch.from_numpy(np.linspace(0, 1, 8).astype(np.float16))
    return (made.float() if dtype is FP32 else made) / 3


def random(x: Tensor, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(8, dtype=dtype) + torch.empty(8, dtype=dtype).uniform_() + torch.rand(8, dtype=dtype)


def windows(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(8, dtype=dtype) + torch.scalar_tensor(1 / 3, dtype=dtype)


def partly(x: Tensor, dtype: torch.dtype) -> Tensor:
    made = torch.zeros_like(x, dtype=dtype)
    made[..., :4] = x[..., :4] / 3
    return made


def by_types(x: Tensor, dtype: torch.dtype) -> Tensor:
    name = {BF16: "BFloat16Tensor", FP16: "HalfTensor", FP32: "FloatTensor"}[dtype]
    kind = getattr(torch, name)
    made = (
        kind([1 / 3] * 8) / 7 + kind(8).fill_(0.3) * kind(torch.Size([8])).fill_(0.7) + kind([1]).new([0.1])
    )
    return made + (x / 3).type(kind) / 7 + (x / 7).type(f"torch.{name}") / 3 + (x / 5).type(dtype) / 7


def sparse(x: Tensor, dtype: torch.dtype) -> Tensor:
    pair = {"indices": [[0, 1]], "values": [1 / 3, 1 / 7], "size": (8,), "check_invariants": False}
    return torch.sparse_coo_tensor(**pair, dtype=dtype).to_dense() / 7


def reduced(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.sum(0, dtype=dtype) / 7 + x.softmax(-1, dtype=dtype) * x.mean(0, dtype=dtype) / 3


MAKES = (filled, as_out, from_numbers, chosen, from_numpy, random, windows, partly, by_types, sparse, reduced)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_tensors_that_a_model_makes(begin, make, dtype) -> None:
    def program(dtype: torch.dtype) -> Found:
        return fit(Makes(dtype, make), lambda net, x: square(net(x.to(dtype))))

    expected = program(FP32)
    begin("fp32")
    same(program(dtype), expected)


@pytest.mark.parametrize("make", [partly, reduced], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_tensors_that_a_model_of_fp32_makes(begin, make, dtype) -> None:
    def program(dtype: torch.dtype) -> Found:
        net = Makes(dtype, make)
        net.net = mlp(FP32)
        return fit(net, lambda net, x: square(net(x)))

    expected = program(FP32)
    begin("fp32")
    same(program(dtype), expected)


@pytest.mark.parametrize("make", [filled, like_another, chosen, partly], ids=lambda make: make.__name__)
def test_tensors_that_a_compiled_model_makes(begin, make) -> None:
    def program(dtype: torch.dtype) -> Found:
        net = Makes(dtype, make)
        run = torch.compile(net, backend="aot_eager", fullgraph=True)
        return fit(net, lambda net, x: square(run(x.to(dtype))))

    expected = program(FP32)
    torch._dynamo.reset()
    begin("fp32")
    same(program(BF16), expected)


def same(found: Found, expected: Found) -> None:
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, Tensor):
            assert a.dtype is FP32
            assert torch.equal(a, b)
        else:
            assert a == b


PROGRAMS: dict[str, Callable[[torch.dtype], Found]] = {}


def program(function: Callable[[torch.dtype], Found]) -> Callable[[torch.dtype], Found]:
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


def queue_of(queue: Tensor, dtype: torch.dtype) -> LossOf:
    """Results are kept, and compared with later ones, as contrastive learning does."""
    place = 0

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        nonlocal place
        out = net(x.to(dtype))
        seen = queue.clone()
        queue[place : place + 6] = (out.detach() / 3).to(queue.dtype)
        place = (place + 6) % 12
        return square(out) + square(out @ seen.T)

    return loss


@program
def a_queue(dtype: torch.dtype) -> Found:
    return fit(mlp(dtype), queue_of(torch.empty(12, 8, dtype=dtype).fill_(0.3), dtype))


@program
def a_queue_that_is_made_before_the_model(dtype: torch.dtype) -> Found:
    queue = torch.full((12, 8), 0.25, dtype=dtype)
    return fit(mlp(dtype), queue_of(queue, dtype))


@program
def results_that_are_kept_in_a_list(dtype: torch.dtype) -> Found:
    memory: list[Tensor] = []

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out = net(x.to(dtype))
        memory.append((out.detach() / 3).to(dtype))
        return square(out) + square(torch.stack(memory) - out)

    return fit(mlp(dtype), loss)


@program
def targets_and_inputs_that_are_cast(dtype: torch.dtype) -> Found:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return F.mse_loss(net((x / 3).to(dtype)), ((x.to(dtype) - 0.1) / 3).to(dtype)).float()

    return fit(mlp(dtype), loss)


def averages_of(dtype: torch.dtype, update: Callable[[list[Tensor], list[Tensor]], object]) -> Found:
    net = mlp(dtype)
    average = [parameter.detach().clone() for parameter in net.parameters()]

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        update(average, [parameter.detach() for parameter in net.parameters()])
        return square(net(x.to(dtype)))

    return [*fit(net, loss), *average]


@program
def an_average_of_weights(dtype: torch.dtype) -> Found:
    return averages_of(
        dtype, lambda a, b: [old.mul_(0.9).add_(new, alpha=0.1) for old, new in zip(a, b, strict=True)]
    )


@program
def an_average_by_foreach(dtype: torch.dtype) -> Found:
    return averages_of(dtype, lambda a, b: torch._foreach_lerp_(a, b, 0.1))


@program
def an_average_of_a_state_dict(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    average = copy.deepcopy(net.state_dict())

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 0.1)
        return square(net(x.to(dtype)))

    return [*fit(net, loss), *average.values()]


class Steps:
    """Several optimizers, or an update by hand."""

    def __init__(self, step: Callable[[], object], zero_grad: Callable[[], object]) -> None:
        self.step, self.zero_grad = step, zero_grad


@program
def two_optimizers(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    first = torch.optim.SGD(net[0].parameters(), lr=0.1, momentum=0.9)
    second = torch.optim.AdamW(net[2].parameters(), lr=1e-3)
    both = Steps(lambda: (first.step(), second.step()), net.zero_grad)
    return fit(net, lambda net, x: square(net(x.to(dtype))), both)


@program
def momentum_by_hand(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    buffers = [torch.zeros_like(parameter) for parameter in net.parameters()]

    @torch.no_grad()
    def step() -> None:
        for buffer, parameter in zip(buffers, net.parameters(), strict=True):
            parameter.add_(buffer.mul_(0.9).add_(parameter.grad), alpha=-0.1)

    return fit(net, lambda net, x: square(net(x.to(dtype))), Steps(step, net.zero_grad))


@program
def a_parametrized_model(dtype: torch.dtype) -> Found:
    net = stored(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    parametrizations.weight_norm(net[0])
    net = net.to(dtype)
    return fit(net, lambda net, x: square(net(x.to(dtype))))


@program
def a_functional_call_of_copied_weights(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2)
    found = fit(
        net, lambda net, x: square(torch.func.functional_call(net, weights, (x.to(dtype),))), optimizer
    )
    return [*found, *(weight.detach() for weight in weights.values())]


@program
def gradients_of_a_state_dict(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        gradients = torch.func.grad(lambda s: square(torch.func.functional_call(net, s, (x.to(dtype),))))(
            state
        )
        state.update({name: value - 0.1 * gradients[name] for name, value in state.items()})
        return square(net(x.to(dtype)))

    return [*fit(net, loss), *state.values()]


@program
def a_step_inside_of_a_step(dtype: torch.dtype) -> Found:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        weights = dict(net.named_parameters())
        inner = square(torch.func.functional_call(net, weights, (x.to(dtype),)))
        gradients = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        fast = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        return square(torch.func.functional_call(net, fast, (x.to(dtype),)))

    return fit(mlp(dtype), loss)


@program
def a_16_bit_checkpoint_that_is_loaded_in_mid_training(dtype: torch.dtype) -> Found:
    steps: Iterator[int] = iter(range(4))
    checkpoint = {name: value / 2 for name, value in mlp(dtype).state_dict().items()}

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        if next(steps) == 2:
            net.load_state_dict(checkpoint)
        return square(net(x))

    return fit(mlp(FP32), loss)


@program
def a_cast_after_the_optimizer_was_made(dtype: torch.dtype) -> Found:
    net = mlp(FP32)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.to(dtype)
    return fit(net, lambda net, x: square(net(x.to(dtype))), optimizer)


@program
def tied_weights(dtype: torch.dtype) -> Found:
    net = nn.Sequential(nn.Embedding(8, 8, dtype=dtype), nn.Linear(8, 8, bias=False, dtype=dtype))
    net[1].weight = net[0].weight
    ids = torch.arange(6)
    return fit(stored(net), lambda net, x: F.cross_entropy(net(ids), ids).float())


@program
def an_embedding_bag(dtype: torch.dtype) -> Found:
    net = stored(nn.EmbeddingBag(8, 8, mode="sum", dtype=dtype))
    ids, weights = torch.arange(12).view(6, 2) % 8, torch.full((6, 2), 0.3).to(dtype)
    return fit(net, lambda net, x: square(net(ids, per_sample_weights=weights)))


@program
def checkpointed_activations(dtype: torch.dtype) -> Found:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return square(checkpoint(net, x.to(dtype).requires_grad_() / 3, use_reentrant=False))

    return fit(mlp(dtype), loss)


@program
def a_default_dtype_in_mid_training(dtype: torch.dtype) -> Found:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        torch.set_default_dtype(dtype)
        return square(net(x.to(dtype)) + torch.tensor([1 / 3] * 8) + torch.linspace(0, 1, 8) / 3)

    try:
        return fit(mlp(dtype), loss)
    finally:
        torch.set_default_dtype(FP32)


@program
def a_default_type_of_tensors(dtype: torch.dtype) -> Found:
    kinds = {BF16: torch.BFloat16Tensor, FP16: "torch.HalfTensor", FP32: torch.FloatTensor}
    torch.set_default_tensor_type(kinds[dtype])
    try:
        net = stored(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)))
        return fit(net, lambda net, x: square(net(x.to(torch.get_default_dtype())) + torch.ones(8) / 3))
    finally:
        torch.set_default_tensor_type("torch.FloatTensor")


@program
def reductions_outside(dtype: torch.dtype) -> Found:
    return fit(mlp(dtype), lambda net, x: square(reduced(net(x.to(dtype)), dtype)))


@program
def a_compiled_model(dtype: torch.dtype) -> Found:
    net = mlp(dtype)
    run = torch.compile(net, backend="aot_eager")
    return fit(net, lambda net, x: square(run(x.to(dtype))))


@program
def a_compiled_step(dtype: torch.dtype) -> Found:
    net = mlp(dtype)

    @torch.compile(backend="aot_eager")
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return square(net((x / 3).to(dtype)) + (torch.zeros(8, dtype=dtype) + 1 / 3))

    return fit(net, loss)


@program
def running_statistics(dtype: torch.dtype) -> Found:
    net = stored(nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.BatchNorm1d(8, dtype=dtype)))
    return [*fit(net, lambda net, x: square(net(x.to(dtype)) - 0.3)), net[1].running_var]


@program
def methods_that_are_called_outside(dtype: torch.dtype) -> Found:
    net = nn.ModuleList([mlp(dtype), mlp(dtype)])

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        mean = net[0](x.to(dtype))
        torch.manual_seed(9)
        return square(net[1](mean + torch.randn(6, 8, dtype=dtype) * torch.exp(mean / 3)))

    return fit(net, loss)


@program
def copies_of_a_model(dtype: torch.dtype) -> Found:
    first = mlp(dtype)
    second, frozen = copy.deepcopy(first), copy.deepcopy(first).to(dtype)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        x = (x / 3).to(dtype)
        return square(net[0](x) + 2 * net[1](x) - frozen(x).detach() / 3)

    return fit(nn.ModuleList([first, second]), loss)


@program
def an_ensemble_by_vmap(dtype: torch.dtype) -> Found:
    nets = [mlp(dtype) for _ in range(2)]
    weights, buffers = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")

    def one(weights: Any, buffers: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(base, (weights, buffers), (x,))

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return square(torch.vmap(one, (0, 0, None))(weights, buffers, (x / 3).to(dtype)))

    return fit(nets[0], loss, torch.optim.AdamW(weights.values(), lr=1e-2))


@program
def an_exported_model(dtype: torch.dtype) -> Found:
    net = torch.export.export(mlp(dtype), (torch.ones(6, 8).to(dtype),)).module()
    return fit(net, lambda net, x: square(net(x.to(next(net.parameters()).dtype))))


@program
def what_a_hook_keeps(dtype: torch.dtype) -> Found:
    net, kept = mlp(dtype), []
    net[0].register_forward_hook(lambda module, given, out: kept.append((out / 3).to(dtype)))
    return fit(net, lambda net, x: square(net(x.to(dtype))) + square(kept[-1]))


@program
def a_recurrent_model(dtype: torch.dtype) -> Found:
    net, start = stored(nn.LSTM(8, 8, dtype=dtype)), torch.zeros(1, 6, 8, dtype=dtype)
    return fit(net, lambda net, x: square(net((x / 3).to(dtype)[None], (start, start))[0]))


@program
def attention_with_a_mask(dtype: torch.dtype) -> Found:
    net = stored(nn.MultiheadAttention(8, 2, batch_first=True, dtype=dtype))
    mask = torch.full((6, 6), float("-inf"), dtype=dtype).triu(1)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        x = (x / 3).to(dtype)[None]
        return square(net(x, x, x, attn_mask=mask)[0])

    return fit(net, loss)


@program
def a_penalty_on_gradients(dtype: torch.dtype) -> Found:
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        x = x.to(dtype).requires_grad_()
        out = net(x)
        (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return square(out) + square(gradient)

    return fit(mlp(dtype), loss)


@pytest.mark.filterwarnings("ignore:.*set_default_tensor_type.*:UserWarning")
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_a_program_that_names_16_bits(begin, name: str, dtype) -> None:
    expected = PROGRAMS[name](FP32)
    if "compiled" in name:
        torch._dynamo.reset()
    begin("fp32")
    same(PROGRAMS[name](dtype), expected)


@pytest.mark.filterwarnings("ignore:.*set_default_tensor_type.*:UserWarning")
@pytest.mark.parametrize("recipe", ["bf16", "fp16:loss_scale=1024"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_such_a_program_in_16_bits_has_fp32_weights(begin, recipe: str, name: str) -> None:
    if "recurrent" in name and "fp16" in recipe:
        pytest.skip("not every CPU has an LSTM in fp16")
    expected = PROGRAMS[name](FP32)
    if "compiled" in name:
        torch._dynamo.reset()
    begin(recipe, products="native")
    found = PROGRAMS[name](BF16)
    losses = [(a, b) for a, b in zip(found, expected, strict=True) if not isinstance(b, Tensor)]
    assert all(a == pytest.approx(b, rel=0.1) for a, b in losses)
    assert {value.dtype for value in found if isinstance(value, Tensor)} == {FP32}


class Scaled(nn.Module):
    """A model with a buffer and a table, of numbers that 16 bits do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(FP32)
        self.register_buffer("mean", torch.full((8,), 1 / 3))
        self.table = torch.full((8,), 1 / 7)
        self.first: Callable[[], object] = bool

    def forward(self, x: Tensor) -> Tensor:
        self.first()
        return self.net((x + self.mean) * self.table)


Cast = Callable[[Tensor], Tensor]


def by_new_parameters(net: nn.Module, cast: Cast) -> None:
    for part in net.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(cast(parameter.detach())))


def by_swapping(net: nn.Module, cast: Cast) -> None:
    for parameter in net.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(cast(parameter.detach())))
    torch.utils.swap_tensors(net.mean, cast(net.mean))


def by_data(net: nn.Module, cast: Cast) -> None:
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = cast(tensor.data)


def by_assigning(net: nn.Module, cast: Cast) -> None:
    net.load_state_dict({name: cast(value) for name, value in net.state_dict().items()}, assign=True)


def in_dictionaries(net: nn.Module, cast: Cast) -> None:
    for part in net.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = nn.Parameter(cast(parameter.detach()))
    net._buffers["mean"] = cast(net._buffers.pop("mean"))


def deleted_and_registered(net: nn.Module, cast: Cast) -> None:
    weight = net.net[0].weight
    del net.net[0].weight
    net.net[0].register_parameter("weight", nn.Parameter(cast(weight.detach())))
    net.register_buffer("mean", cast(net.mean))


def by_an_attribute(net: nn.Module, cast: Cast) -> None:
    net.mean = cast(net.mean)


def in_the_forward_pass(net: nn.Module, cast: Cast) -> None:
    net.first = lambda: by_an_attribute(net, cast)


def of_no_buffer(net: nn.Module, cast: Cast) -> None:
    """Of which an author's own constants are made, too: in 16 bits these are as the author has them."""
    net.table = cast(net.table)


_NARROWS = (by_data, by_new_parameters, by_swapping, by_assigning, in_dictionaries, deleted_and_registered)


@pytest.mark.parametrize(
    ("recipe", "narrow"),
    [
        *((r, n) for r in ("fp32", "bf16", "fp16:loss_scale=1024") for n in (*_NARROWS, by_an_attribute)),
        *(("fp32", narrow) for narrow in (in_the_forward_pass, of_no_buffer)),
    ],
)
def test_weights_that_the_script_casts_in_mid_training_keep_their_values(begin, recipe, narrow) -> None:
    def program(cast: Cast) -> Found:
        net, losses = Scaled(), []
        torch.manual_seed(2)
        for step, x in enumerate(torch.randn(4, 6, 8)):
            if step == 2:
                narrow(net, cast)
            loss = square(net(x))
            if step in (0, 2):  # what the dictionaries hold is not read before the call
                optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item(), net.net[0].weight.detach().clone()]
        return [*losses, net.mean]

    begin(recipe, products="native")
    expected = program(torch.clone)
    same(program(lambda value: value.to(BF16)), expected)


def test_16_bit_values_that_the_script_computes_for_its_weights_are_the_weights(begin) -> None:
    begin("fp32")
    net = mlp(FP32)
    net(torch.ones(2, 8))
    halved = (net[0].weight.detach() / 2).to(BF16)
    net[0].weight.data = halved
    net(torch.ones(2, 8))
    assert net[0].weight.dtype is FP32
    assert torch.equal(net[0].weight, halved.float())


@pytest.mark.parametrize(("recipe", "other"), [("fp16", BF16), ("bf16", FP16)])
def test_tensors_of_the_other_format_may_be_joined(begin, recipe: str, other) -> None:
    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 8, dtype=other)

        def forward(self, x: Tensor) -> Tensor:
            made = torch.stack([torch.tensor(i / 8, dtype=other) for i in range(8)])
            return torch.cat([self.net(x), made.expand(2, 8)]).index_copy(0, torch.tensor([0]), made[None])

    begin(recipe, products="native")
    out = Joins()(torch.ones(2, 8, dtype=other))
    assert torch.equal(out[2:], (torch.arange(8) / 8).expand(2, 8))
    assert out.dtype is FP32


def test_a_data_loader_prepares_the_dtypes_that_the_script_wrote(begin) -> None:
    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            return torch.full((8,), 1 / 3).to(BF16) + torch.zeros(8, dtype=BF16)

    begin("fp32")
    net = mlp(BF16)
    for workers in (0, 1):
        for batch in torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=workers):
            assert torch.equal(batch.float(), round_to(torch.full((2, 8), 1 / 3), "bf16"))
            assert net(batch).dtype is FP32
