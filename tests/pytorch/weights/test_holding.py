"""What is widened and when, what stays, what the record is told, and what enters a model."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._device import _device_constructors

from halfstep.record import Writer

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
Weights = dict[str, Tensor]


def noted(takeover) -> list[dict[str, str]]:
    """What the takeover writes of the program's own precision, from now on."""
    lines: list[dict[str, str]] = []
    takeover.recorder.write = lambda event, **fields: lines.append(fields) if event == "own_amp" else None
    return lines


@pytest.mark.parametrize("recipe", ["as-is", "fp32", "bf16"])
def test_the_record_says_that_the_program_holds_16_bit_weights(begin, recipe: str) -> None:
    told = noted(begin(recipe))
    net = nn.Linear(4, 4, dtype=BF16)
    torch.optim.SGD(net.parameters(), lr=0.1)
    torch.optim.SGD(nn.Linear(4, 4, dtype=BF16).parameters(), lr=0.1)
    assert told == [{"what": "bf16 weights", "asks": "bf16"}]


def test_the_record_names_a_cast_that_is_not_applied(begin) -> None:
    told = noted(begin("fp32"))
    nn.Linear(4, 4).half()
    assert told == [{"what": "fp16 weights", "asks": "fp16"}]


@pytest.mark.parametrize("dtype", [FP32, FP64])
def test_a_program_without_16_bits_is_left_alone(begin, dtype) -> None:
    takeover = begin("fp32")
    told = noted(takeover)
    net = nn.Linear(4, 4, dtype=dtype)
    memory, x, filled = net.weight.data_ptr(), torch.randn(2, 4, dtype=dtype), []
    seen = {}

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, given: list[Tensor], options: dict[str, Tensor], into: list[int]) -> Tensor:
            seen.update(given=given, options=options, autocast=torch.is_autocast_enabled("cpu"))
            into.append(1)
            return self.net(given[0])

    given, options = [x], {"x": x}
    assert Reads()(given, options, filled).dtype is dtype
    assert seen["given"] is given
    assert seen["options"] is options
    assert not seen["autocast"]
    assert filled == [1]
    assert net.weight.data_ptr() == memory
    assert told == []


def test_float64_is_honoured_and_its_half_is_fp32(begin) -> None:
    begin("fp32")
    net = nn.Linear(4, 4).double()
    exact = net.weight.detach() / 3
    net.weight.data = exact.clone()
    assert net(torch.randn(2, 4, dtype=FP64)).dtype is FP64
    net.half()
    assert torch.equal(net.weight, exact.float())
    assert net.double().weight.dtype is FP64


def test_parameters_keep_their_objects_ties_gradients_and_memory(begin) -> None:
    begin("fp32")
    a, b = nn.Linear(4, 4, dtype=BF16), nn.Linear(4, 4, dtype=BF16)
    b.weight.data = a.weight.data  # tied by memory
    a.weight.grad = torch.full_like(a.weight, 0.5)
    weight, exact = a.weight, a.weight.detach().float()
    optimizer = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=1.0)
    assert a.weight is weight is optimizer.param_groups[0]["params"][0]
    assert torch.equal(weight, exact)
    assert weight.grad.dtype is FP32
    optimizer.step()
    assert torch.equal(b.weight, exact - 0.5)


def test_loaded_optimizer_state_and_groups_added_later_are_fp32(begin) -> None:
    state = {}
    for recipe in (None, "fp32"):
        if recipe:
            begin(recipe)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4, dtype=BF16), nn.Linear(4, 4, dtype=BF16))
        optimizer = torch.optim.AdamW(net[0].parameters())
        if recipe:
            optimizer.load_state_dict(state)
        net(torch.ones(2, 4, dtype=BF16)).sum().backward()
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
    assert {s["exp_avg"].dtype for s in optimizer.state.values()} == {FP32}
    optimizer.add_param_group({"params": net[1].parameters()})
    assert {p.dtype for p in net.parameters()} == {FP32}


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_parameters_without_a_module(begin, dtype) -> None:
    begin("fp32")
    weight = torch.full((3,), 1.5, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=2.0**-12)
    weight.sum().backward()
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), 1.5 - 2.0**-12))


def test_weights_replaced_after_the_first_call_are_widened_at_the_next(begin) -> None:
    begin("fp32")
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    x = torch.randn(2, 4)
    net(x)
    net[1] = nn.LayerNorm(4, dtype=BF16)
    net[0].weight = nn.Parameter(torch.randn(4, 4, dtype=FP16))
    net[0].load_state_dict(nn.Linear(4, 4, dtype=BF16).state_dict(), assign=True)
    assert net(x).dtype is FP32
    assert {p.dtype for p in net.parameters()} == {FP32}


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16"])
def test_weights_that_are_made_by_the_first_call(begin, recipe: str) -> None:
    begin(recipe, products="native")
    net = nn.Sequential(nn.LazyLinear(4, dtype=BF16), nn.LazyBatchNorm1d(dtype=BF16))
    net(torch.randn(3, 5)).float().sum().backward()
    assert {p.dtype for p in net.parameters()} == {net[1].running_mean.dtype} == {FP32}


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_lazy_model_may_be_cast_before_its_first_call(begin, recipe: str) -> None:
    """There are no numbers to keep yet; those that are drawn later are those of an fp32 model."""

    def weights(dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()).to(dtype)
        net(torch.ones(3, 5, dtype=dtype)).float().sum().backward()
        return [p.detach() for p in net.parameters()]

    plain = weights(FP32)
    begin(recipe)
    ours = weights(BF16)
    assert {p.dtype for p in ours} == {FP32}
    assert all(map(torch.equal, ours, plain))


@pytest.mark.parametrize(("recipe", "held"), [("fp32", BF16), ("bf16", BF16), ("bf16-true", FP32)])
def test_frozen_weights_may_be_made_in_inference_mode(begin, recipe: str, held: torch.dtype) -> None:
    """As a teacher's are: ``with torch.inference_mode(): teacher = load()``."""
    x = torch.ones(2, 4, dtype=held)

    def results() -> Tensor:
        torch.manual_seed(0)
        with torch.inference_mode():
            teacher = nn.Sequential(nn.Linear(4, 4, dtype=held), nn.LayerNorm(4, dtype=held))
            teacher.requires_grad_(False)
        with torch.no_grad():
            found: Tensor = teacher(x).float()
        return found

    exact = results()
    begin(recipe)
    # bf16 rounds each of the few numbers by at most 2^-9 of the largest, some times
    assert torch.allclose(results(), exact, rtol=0, atol=8 * 2.0**-9 * float(exact.abs().max()))


def test_weights_that_a_functional_call_swaps_in(begin) -> None:
    begin("fp32")
    net = nn.Linear(4, 4, dtype=BF16)
    exact, x = net.weight.detach().float(), torch.randn(2, 4)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, weights, (x,)).square().sum()

    gradients = torch.func.grad(loss)({name: p.detach() for name, p in net.named_parameters()})
    assert {g.dtype for g in gradients.values()} == {FP32}
    assert torch.equal(net(x), torch.nn.functional.linear(x, exact, net.bias.float()))
    assert net.weight.dtype is FP32


def by_safetensors(net: nn.Module, saved: Weights, tmp_path: Path) -> None:
    """It holds the state that it reads from the model while it loads."""
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(saved, tmp_path / "weights")
    safetensors.load_model(net, tmp_path / "weights")


LOADS: dict[str, Callable[[nn.Module, Weights, Path], object]] = {
    "copied": lambda net, saved, _: net.load_state_dict(saved),
    "assigned": lambda net, saved, _: net.load_state_dict(saved, assign=True),
    "safetensors": by_safetensors,
}


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
@pytest.mark.parametrize("load", LOADS)
def test_a_checkpoint_in_fp32_is_loaded_exactly_into_a_16_bit_model(
    begin, recipe: str, load: str, tmp_path: Path
) -> None:
    saved = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).state_dict()
    begin(recipe, products="native")
    net = nn.Sequential(nn.Linear(4, 4, dtype=BF16), nn.BatchNorm1d(4, dtype=BF16))
    LOADS[load](net, saved, tmp_path)
    net(torch.ones(2, 4))
    assert all(torch.equal(p, saved[name]) for name, p in net.named_parameters())


def test_an_export_is_of_the_model_as_it_is(begin) -> None:
    begin("fp32")
    net, x = nn.Linear(4, 4, dtype=BF16), torch.ones(1, 4, dtype=BF16)
    assert torch.export.export(net, (x,)).module()(x).shape == (1, 4)
    assert net(x).dtype is FP32


#: what the first call of a model may stand in
WITHIN: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "inference_mode": lambda net, x: torch.inference_mode()(net)(x),
    "grad": lambda net, x: torch.func.grad(lambda y: net(y).sum())(x),
    "grad under vmap": lambda net, x: torch.vmap(torch.func.grad(lambda y: net(y).sum()))(x),
    "jvp": lambda net, x: torch.func.jvp(net, (x,), (x,)),
    "a compiled transform": lambda net, x: torch.compile(
        torch.func.grad(lambda y: net(y).sum()), backend="aot_eager"
    )(x),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own, in its decompositions
@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(
    ("recipe", "made_in", "stored"),
    [
        ("fp32", BF16, FP32),
        ("fp16:loss_scale=8", BF16, FP32),
        ("bf16-true", FP32, BF16),
        ("bf16-lean", FP32, FP32),
    ],
)
def test_weights_are_converted_for_good_whatever_the_first_call_is_within(
    begin, recipe: str, made_in, stored, within: str
) -> None:
    """As after a first call of the model by itself."""

    def steps(first: Callable[[nn.Module, Tensor], object]) -> list[Tensor]:
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(4, 4, dtype=made_in), nn.Tanh(), nn.Linear(4, 4)), torch.ones(2, 4)
        first(net, x)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            net(x).square().sum().backward()
            optimizer.step()
        assert {p.dtype for p in net.parameters()} == {stored}
        return [p.detach().clone() for p in net.parameters()]

    begin(recipe)
    expected = steps(lambda net, x: net(x))
    assert all(torch.equal(a, b) for a, b in zip(steps(WITHIN[within]), expected, strict=True))


class Glue(nn.Module):
    """What its author wrote for a model in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, dtype=BF16)
        self.mix = nn.Parameter(torch.ones(4, 4, dtype=BF16))

    def forward(self, x: Tensor, masks: dict[str, list[Tensor]], pair: tuple[Tensor, int]) -> Tensor:
        made = torch.zeros(4, 4, dtype=self.mix.dtype).index_add_(0, pair[0].long(), masks["bias"][0])
        return self.norm(x) @ self.mix + made.softmax(-1) + torch.dot(x[0], self.mix[0])


@pytest.mark.parametrize("recipe", ["fp32", "tf32"])
def test_what_a_program_casts_for_its_model_enters_as_fp32(begin, recipe: str) -> None:
    x, rows = torch.randn(4, 4).to(BF16), torch.arange(4).to(BF16)
    bias = torch.randn(4, 4).to(FP16)
    plain = Glue().float()
    expected = plain(x.float(), {"bias": [bias.float()]}, (rows, 1))
    begin(recipe, emulate=recipe == "tf32")
    net = Glue()
    weight_dtype = net.mix.dtype
    out = net(x.to(weight_dtype), {"bias": [bias]}, (rows, 1))
    assert out.dtype is FP32
    if recipe == "fp32":
        assert torch.equal(out, expected)


def test_tensors_made_inside_by_a_16_bit_default_are_fp32(begin) -> None:
    class Accumulates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(1)
            for _ in range(1000):
                total += x * self.weight
            return total

    begin("fp32")
    torch.set_default_dtype(BF16)
    try:
        net = Accumulates()
        assert net(torch.ones(1)).item() == 1000.0
        assert torch.get_default_dtype() is torch.zeros(1).dtype is FP32
    finally:
        torch.set_default_dtype(FP32)


class LoRA(nn.Module):
    """A frozen base in 16 bits, with norms, below trainable factors in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.norm = nn.LayerNorm(4)
        self.base = nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 0.3))
        self.register_buffer("table", torch.full((4,), 0.3, dtype=BF16), persistent=False)
        for part in (self.embed, self.norm, self.base):
            for parameter in part.parameters():
                parameter.requires_grad_(False).data = parameter.data.to(BF16)
        self.scale = self.scale.to(BF16)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids)) * self.scale.exp() * self.table
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "fp16:loss_scale=1024"])
def test_a_frozen_base_changes_no_number(begin, recipe: str) -> None:
    def losses(net: nn.Module, amp: torch.dtype | None = None) -> list[float]:
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
        found = []
        for _ in range(4):
            with nullcontext() if amp is None else torch.autocast("cpu", amp):
                out = net(torch.arange(8))
            loss = out.float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    torch.manual_seed(3)
    net = LoRA()
    plain = copy.deepcopy(net).float()
    plain.table = net.table
    expected = losses(plain, {"fp32": None, "bf16": BF16}.get(recipe, FP16))
    begin(recipe, products="native")
    found = losses(net)
    if recipe.startswith("fp16"):  # what underflows differs without a loss scale
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found == expected
    stays = {"fp32": FP32}.get(recipe, BF16)
    assert net.base.weight.dtype is stays, "autocast casts it to its own 16 bits at each use"
    assert net.norm.weight.dtype is net.embed.weight.dtype is net.scale.dtype is FP32
    assert net.table.dtype is stays


def test_a_kept_module_is_fp32_though_it_is_frozen(begin) -> None:
    begin("bf16:keep=base", products="native")
    net = LoRA()
    net(torch.arange(8))
    assert net.base.weight.dtype is FP32


def test_integer_weights_stay(begin) -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
            self.step = nn.Parameter(torch.full((4, 1), 0.1, dtype=BF16), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.codes * self.step).T

    begin("fp32")
    net = Quantized()
    assert net(torch.ones(1, 4, dtype=BF16)).dtype is FP32
    assert net.codes.dtype is torch.int8


@pytest.mark.parametrize(("recipe", "dtype"), [("fp32", FP32), ("bf16", FP32), ("bf16-true", BF16)])
@pytest.mark.parametrize("made", [FP32, BF16, FP16])
def test_an_average_that_is_made_before_the_first_call_follows_its_model(
    begin, recipe: str, dtype, made
) -> None:
    begin(recipe, products="native")
    net = nn.Sequential(nn.Linear(4, 4, dtype=made), nn.BatchNorm1d(4, dtype=made))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    average.update_parameters(net)
    first = net[0].weight.detach().clone()
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    average.update_parameters(net)
    assert {p.dtype for p in [*net.parameters(), *average.module.parameters()]} == {dtype}
    assert average.module[1].running_mean.dtype is dtype
    half_way = torch.lerp(first.to(dtype), net[0].weight.detach(), 0.5)
    assert torch.equal(average.module[0].weight, half_way)


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("recipe", ["as-is", "fp32", "bf16", "fp16", "bf16-true"])
def test_a_script_may_swap_tensors_before_every_step(begin, tmp_path, recipe: str, watch: bool) -> None:
    """PyTorch refuses to swap what has a weak reference, and plain python has none to these."""

    def losses(swaps: bool) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        optimizer, found = torch.optim.SGD(net.parameters(), lr=0.1), []
        for x in torch.randn(4, 8, 4):
            optimizer.zero_grad()
            for tensor in (*net.parameters(), *net.buffers()) if swaps else ():
                made = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
                torch.utils.swap_tensors(tensor, type(tensor)(made) if tensor.requires_grad else made)
            loss = net(x).float().square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
        return found

    begin(recipe, Writer(tmp_path / "record"), watch=watch, products="native")
    assert losses(swaps=True) == losses(swaps=False)


def test_what_is_made_in_16_bits_may_be_swapped_in(begin) -> None:
    begin("fp32")
    net = nn.BatchNorm1d(4)
    torch.utils.swap_tensors(net.running_mean, torch.full((4,), 0.3, dtype=BF16))
    net(torch.ones(2, 4))
    assert net.running_mean.dtype is FP32


def test_models_and_copies_are_not_kept_alive(begin) -> None:
    begin("fp32")

    def called() -> weakref.ref[nn.Module]:
        net = nn.BatchNorm1d(4)
        net(torch.ones(2, 4))
        buffer = weakref.ref(net.running_mean)
        net.to(FP64)
        assert buffer() is None, "a model may be moved off a device to make room"
        net.itself = lambda: net
        net.weight.register_hook(lambda gradient: net.itself())
        net(torch.ones(2, 4, dtype=FP64))
        return weakref.ref(net)

    net = nn.Linear(4, 4)
    made = weakref.ref(copy.deepcopy(net))
    assert made() is None
    made = called()
    gc.collect()
    assert made() is None


@pytest.mark.parametrize("recipe", ["bf16-true", "fp16-true:loss_scale=1"])
def test_a_recipe_with_16_bit_weights_has_its_own_16_bits(begin, recipe: str) -> None:
    dtype, other = (BF16, FP16) if recipe == "bf16-true" else (FP16, BF16)
    begin(recipe)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, dtype=other)).to(other)
    exact = net[0].weight.detach().clone()
    assert exact.dtype is FP32, "it is rounded once, to the recipe's format"
    assert net(torch.ones(1, 4, dtype=other)).dtype is FP32
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert torch.equal(net[0].weight, exact.to(dtype))


def test_a_parametrized_model_can_be_copied(begin) -> None:
    """PyTorch gives parametrized classes a `__deepcopy__` of their own where `nn.Module` has none."""
    begin("fp32")
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_a_16_bit_model_can_prepare_data(begin) -> None:
    """Its cast was not applied, what it is given is 16-bit: in the script's own process and in a worker's."""

    class Features(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.extract = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).bfloat16()

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            with torch.no_grad():
                return self.extract(torch.ones(4, dtype=BF16))

    begin("fp32")
    data = Features()
    for workers in (0, 1):
        (batch,) = torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers)
        assert batch.shape == (4, 4)


def trained(net: nn.Module) -> nn.Module:
    """``net`` after one step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return net


@pytest.mark.parametrize("how", ["append", "__setitem__"])
def test_a_16_bit_part_that_a_model_gets_in_mid_training_is_fp32(begin, how: str) -> None:
    begin("fp32")
    part = nn.Linear(4, 4, dtype=BF16)
    net = trained(nn.Sequential(nn.Linear(4, 4)))
    getattr(net, how)(*([part] if how == "append" else [0, part]))
    assert net(torch.randn(2, 4)).dtype is FP32
    assert part.weight.dtype is FP32


def test_weights_that_are_replaced_in_mid_training_are_read_in_fp32(begin) -> None:
    begin("fp32")
    net = trained(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    exact = torch.randn(4, 4, dtype=BF16)
    assert [p.dtype for p in net.parameters()] == 4 * [FP32]
    net[1].weight = nn.Parameter(exact.clone())
    average = [p.detach().clone() for p in net.parameters()]
    assert [p.dtype for p in average] == 4 * [FP32]
    assert torch.equal(average[2], exact.float())


def test_a_device_of_tensors_that_are_made_holds_where_their_makers_are_replaced(begin) -> None:
    """A model that is made without memory draws no random numbers, and PyTorch asks once what makes tensors."""
    _device_constructors.cache_clear()
    begin("fp32")
    nn.Linear(4, 4, dtype=BF16)(torch.randn(2, 4))
    torch.manual_seed(0)
    with torch.device("meta"):
        net = nn.Linear(4, 4)
    assert net.weight.is_meta
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(()))


@pytest.mark.parametrize(("recipe", "made_in"), [("fp32", BF16), ("bf16", FP16), ("bf16-true", FP32)])
def test_weights_that_processes_share_are_converted_before_they_share_them(
    begin, recipe: str, made_in
) -> None:
    """Converted at the first call, each process would train weights of its own."""
    begin(recipe)
    net = nn.Sequential(nn.Linear(4, 4, dtype=made_in))
    net.share_memory()
    memory = net[0].weight.data_ptr()
    trained(net)
    assert net[0].weight.is_shared()
    assert net[0].weight.data_ptr() == memory
