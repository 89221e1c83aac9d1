"""``bf16-lean`` trains as ``bf16`` does with weights that are rounded half away from zero, bit for bit."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from halfstep.pytorch.lean.split import Parts, split
from halfstep.pytorch.raw_data import raw_data
from halfstep.pytorch.recording.stored import stored_in

from ..conftest import Begin

STEPS = 5


class Rounded(torch.autograd.Function):
    """What the reference computes with: an fp32 weight, rounded half away; its gradient is rounded to bf16."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor) -> Tensor:
        parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
        split([wide], [parts])
        return parts.weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.to(torch.bfloat16).float()


class RoundedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Rounded.apply(self.weight), self.bias)


class RoundedEmbedding(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, Rounded.apply(self.weight).float())


class Model(nn.Module):
    def __init__(self, rounded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        linear, embedding = (RoundedLinear, RoundedEmbedding) if rounded else (nn.Linear, nn.Embedding)
        self.rows = embedding(11, 8)
        self.position = nn.Parameter(torch.randn(1, 6, 8))
        self.norm = nn.LayerNorm(8)
        self.up = linear(8, 16)
        self.down = linear(16, 8)
        self.head = linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(x) + self.position
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        result: Tensor = self.head(x)
        return result


Optimize = Callable[[Any], torch.optim.Optimizer]
Do = Callable[[nn.Module, torch.optim.Optimizer], None]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range = range(STEPS),
    after: Do = lambda model, optimizer: None,
    passes: int = 1,
) -> list[float]:
    losses = []
    for step in steps:
        for part in range(passes):
            generator = torch.Generator().manual_seed(step * 10 + part)
            x = torch.randint(11, (4, 6), generator=generator)
            loss = F.cross_entropy(model(x).flatten(0, 1), ((3 * x + 1) % 11).flatten())
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        after(model, optimizer)
    return losses


def assert_same(found: Any, expected: Any) -> None:
    """State dicts, bit for bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, Tensor):
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]})


def clamped(model: nn.Module, optimizer: Any) -> None:
    """As a WGAN does."""
    for parameter in model.parameters():
        parameter.data.clamp_(-0.35, 0.35)


def decayed_by_hand(model: nn.Module, optimizer: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9999)


def swapped(model: nn.Module, optimizer: Any) -> None:
    model.load_state_dict({name: value * 0.999 for name, value in model.state_dict().items()})
    model.to("cpu", non_blocking=True)
    down = nn.Parameter(model.down.weight.detach() * 0.5)
    torch.utils.swap_tensors(model.down.weight, down)
    assert down.dtype is torch.float32


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


CASES: list[tuple[Optimize, dict[str, Any]]] = [
    (adamw, {}),
    (sgd, {"passes": 3}),
    (adamw, {"after": clamped}),
    (adamw, {"after": decayed_by_hand}),
    (adamw, {"after": swapped}),
]


@pytest.mark.parametrize(
    ("optimize", "options"), CASES, ids=["AdamW", "accumulated", "clamped", "decayed by hand", "swapped"]
)
def test_it_trains_as_bf16_with_weights_rounded_half_away(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, optimize: Optimize, options: Any
) -> None:
    """A program may ask for ``torch.__future__.set_swap_module_params_on_conversion``."""
    if options.get("after") is swapped:
        monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    takeover = begin("bf16")
    reference = Model(rounded=True)
    by = optimize(reference.parameters())
    expected = train(reference, by, **options)
    takeover.remove()
    begin("bf16-lean")
    model = Model(rounded=False)
    optimizer = optimize(model.parameters())
    assert train(model, optimizer, **options) == expected
    assert_same(state(model, optimizer), state(reference, by))
    model(torch.zeros(1, 6, dtype=torch.int64))
    assert raw_data(model.up.weight).dtype is torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_others_are_made_of_stay_fp32(begin: Begin) -> None:
    """Weight and spectral norms, old and new, and recurrent layers: nothing differs from ``bf16``."""

    def trained(recipe: str) -> tuple[list[float], dict[str, Any]]:
        takeover = begin(recipe)
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.utils.weight_norm(nn.Linear(4, 8)),
            nn.utils.spectral_norm(nn.Linear(8, 8)),
            nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
            nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)),
        )
        recurrent = nn.GRU(6, 4)
        optimizer = adamw([*model.parameters(), *recurrent.parameters()])
        losses = []
        for step in range(3):
            x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
            loss = recurrent(model(x))[0].float().square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert {raw_data(p).dtype for p in model.parameters()} == {torch.float32}
        found = losses, copy.deepcopy(dict(model.state_dict()))
        takeover.remove()
        return found

    expected, found = trained("bf16"), trained("bf16-lean")
    assert found[0] == expected[0]
    assert_same(found[1], expected[1])


def test_what_is_stored(begin: Begin) -> None:
    """Weights and remainders of 2 bytes; norms, biases and what is added to every example stay fp32."""
    begin("bf16-lean:keep=head")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    x = torch.randint(11, (4, 6))
    model(x).sum().backward()
    optimizer.step()
    held = model.rows.weight.numel() + model.up.weight.numel() + model.down.weight.numel()
    every = sum(p.numel() for p in model.parameters())
    stored = stored_in(model.parameters(), [], [optimizer])
    assert stored["weights"] == {"bf16": 2 * held, "remainder16": 2 * held, "fp32": 4 * (every - held)}
    assert stored["gradients"] == {"bf16": 2 * held, "fp32": 4 * (every - held)}
    assert set(stored["optimizer"]) == {"fp32"}
    assert raw_data(model.head.weight).dtype is raw_data(model.norm.weight).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_were_loaded_in_16_bits_have_remainders_too(begin: Begin, dtype: torch.dtype) -> None:
    model = Model(rounded=False).to(dtype)
    expected = {name: value.float() for name, value in model.state_dict().items()}
    begin("bf16-lean")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train(model, optimizer, range(1))
    assert_same(dict(model.state_dict()), expected)
    assert raw_data(model.up.weight).dtype is torch.bfloat16


def test_killed_and_resumed_it_is_the_same_bit_for_bit(begin: Begin) -> None:
    begin("bf16-lean")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = train(model, optimizer, range(3, 6))
    again = Model(rounded=False)
    resumed = adamw(again.parameters())
    again(torch.zeros(1, 6, dtype=torch.int64))  # it may have been called before it is loaded
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(again, resumed, range(3, 6)) == expected
    assert_same(state(again, resumed), state(model, optimizer))


def by_safetensors(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    files = pytest.importorskip("safetensors.torch")
    files.save_file(state, folder / "weights.safetensors")
    return dict(files.load_file(folder / "weights.safetensors"))


def by_distributed_checkpoint(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    checkpoint.save(state, checkpoint_id=folder)
    loaded = {name: torch.zeros_like(value) for name, value in state.items()}
    checkpoint.load(loaded, checkpoint_id=folder)
    return loaded


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("through", [by_safetensors, by_distributed_checkpoint])
def test_checkpoints_of_other_libraries_hold_fp32_weights(begin: Begin, through: Any, tmp_path: Path) -> None:
    takeover = begin("bf16-lean")
    model = Model(rounded=False)
    train(model, adamw(model.parameters()))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    found = through(model.state_dict(), tmp_path)
    assert_same(found, expected)
    takeover.remove()
    plain = Model(rounded=False)
    plain.load_state_dict(found)
    assert_same(dict(plain.state_dict()), expected)


def test_an_average_of_weights_is_that_of_fp32_weights(begin: Begin) -> None:
    def averaged(model: nn.Module) -> dict[str, Any]:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        train(
            model, adamw(model.parameters()), after=lambda model, optimizer: average.update_parameters(model)
        )
        assert {p.dtype for p in average.parameters()} == {torch.float32}
        return dict(average.module.state_dict())

    takeover = begin("bf16")
    expected = averaged(Model(rounded=True))
    takeover.remove()
    begin("bf16-lean")
    assert_same(averaged(Model(rounded=False)), expected)


def test_taken_off_again_the_weights_are_fp32_with_all_their_bits(begin: Begin) -> None:
    takeover = begin("bf16-lean")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    train(model, optimizer)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    assert takeover.cannot_be_undone == ""
    takeover.remove()
    assert_same(dict(model.state_dict()), expected)
    train(model, optimizer, range(1))
    assert {raw_data(p).dtype for p in model.parameters()} == {torch.float32}


class Conv1D(nn.Module):
    """As Transformers' GPT-2 has it: the graph saves the parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight).tanh()


class Saves(nn.Module):
    """Two such layers, called by ``call``."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.parts, self.call = nn.ModuleList([Conv1D(), Conv1D()]), call

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = self.call(part, x)
        return x


def saved_elsewhere(part: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (t.dtype, t.float()), lambda t: t[1].to(t[0])):
        return part(x)


def on_the_cpu(part: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return part(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda part, x: checkpoint(part, x, use_reentrant=False),
        lambda part, x: checkpoint(part, x, use_reentrant=True),
        saved_elsewhere,
        on_the_cpu,
    ],
    ids=["checkpoint", "reentrant", "hooks", "save_on_cpu"],
)
def test_what_graphs_save_of_weights(begin: Begin, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
    def trained(call: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, Tensor]:
        model, x = Saves(call), torch.linspace(-1, 1, 32).view(4, 8).requires_grad_()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return dict(model.state_dict())

    begin("bf16-lean", products="native")
    assert_same(trained(call), trained(lambda part, x: part(x)))


class PartlyExact(nn.Module):
    """Its author computes a part of it in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.exact, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            hidden = self.exact(x.float()).tanh()
        return self.last(hidden)


@pytest.mark.parametrize("compiled", [False, True])
def test_where_the_script_computes_in_fp32_its_16_bit_weights_are_promoted(
    begin: Begin, compiled: bool
) -> None:
    """Inside a model, and in an evaluation outside of the script's own regions, of a loss with weights too."""
    begin("bf16-lean", products="native")
    model, loss, x = PartlyExact(), nn.Sequential(nn.Linear(4, 4)), torch.randn(6, 8)
    run = torch.compile(model, backend="eager") if compiled else model
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = run(x)
        loss(out.float()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

        def linear(layer: nn.Linear, x: Tensor) -> Tensor:
            assert raw_data(layer.weight).dtype is torch.bfloat16
            return F.linear(x, raw_data(layer.weight).float(), raw_data(layer.bias).float())

        hidden = linear(model.exact, x).tanh()
        assert torch.equal(run(x), linear(model.last, hidden))
        assert torch.equal(loss(hidden[:, :4]), linear(loss[0], hidden[:, :4]))


def test_a_model_that_is_trained_by_hand_loses_no_update(begin: Begin) -> None:
    """Updates of a thousandth of the last place of bf16 add up."""
    begin("bf16-lean")
    linear = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    linear[0].weight.data.fill_(1.0)
    for _ in range(200):
        linear(torch.ones(1, 4)).sum().backward()
        with torch.no_grad():
            for p in linear.parameters():
                p.sub_(p.grad, alpha=2**-17)
                p.grad = None
    assert torch.equal(linear[0].weight.detach(), torch.full((3, 4), 1 - 200 * 2**-17))


def test_a_step_with_bad_gradients_is_skipped_where_that_is_asked_for(begin: Begin) -> None:
    takeover = begin("bf16-lean:skip_nonfinite")
    model = Model(rounded=False)
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    expected = state(model, optimizer)
    (model(torch.zeros(1, 6, dtype=torch.int64)).sum() * float("inf")).backward()
    optimizer.step()
    assert takeover.skipped == 1
    assert_same(state(model, optimizer), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
def test_a_compiled_step_is_made_in_fp32_too(begin: Begin) -> None:
    def run(step: Callable[[torch.optim.Optimizer], Callable[[], Any]]) -> dict[str, Any]:
        model = Model(rounded=False)
        optimizer = adamw(model.parameters())
        stepping = step(optimizer)
        for number in range(3):
            model(torch.full((1, 6), number)).square().sum().backward()
            stepping()
            optimizer.zero_grad()
        return dict(model.state_dict())

    begin("bf16-lean")
    expected = run(lambda optimizer: optimizer.step)
    found = run(lambda optimizer: torch.compile(optimizer.step, backend="eager"))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6)


class Averaging(nn.Linear):
    """Calls functions that are replaced for the script."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.lerp(super().forward(x), torch.ones_like(x), 0.1)
        return (
            y.add(1).lerp(y, 0.5) + torch.zeros_like(self.weight).copy_(self.weight) + torch.norm(self.weight)
        )


def test_a_compiler_puts_functions_that_are_replaced_into_one_graph(begin: Begin) -> None:
    begin("bf16-lean")
    torch._dynamo.trace_rules.clear_lru_cache()  # as where a process group begins
    torch.manual_seed(0)
    model = Averaging(4, 4)
    x = torch.randn(4, 4)
    model(x).sum().backward()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))


def test_models_that_are_trained_side_by_side_in_threads_train_as_one_after_the_other(begin: Begin) -> None:
    begin("bf16-lean")
    x, found = torch.randn(8, 16), {}

    def trained(seed: int, by: str) -> None:
        for p in (model := models[by][seed]).parameters():
            p.data.clamp_(-0.3, 0.3)
        optimizer = adamw(model.parameters())
        for _ in range(40):
            for _ in range(2):
                model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found[by, seed] = dict(model.state_dict())

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    models = {by: [made(seed) for seed in range(3)] for by in ("threads", "turns")}
    threads = [threading.Thread(target=trained, args=(seed, "threads")) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(3):
        trained(seed, "turns")
        assert_same(found["threads", seed], found["turns", seed])
