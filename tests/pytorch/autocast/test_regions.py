"""A recipe's region is what the author means it to be: code outside of the network sees fp32."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.raw_data import raw_data
from halfstep.record import Writer

BF16 = torch.bfloat16


class Net(nn.Module):
    """Two layers, which note the dtype of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)
        self.seen: list[torch.dtype] = []

    def encode(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        self.seen.append(hidden.dtype)
        return torch.tanh(hidden)

    def forward(self, x: Tensor) -> Tensor:
        out = self.two(self.encode(x))
        self.seen.append(out.dtype)
        return out


@pytest.fixture
def kinds(begin, tmp_path: Path) -> Callable[[], list[str]]:
    """Begins bf16 with a record; called, it gives the kinds of region that the record has."""
    path = tmp_path / "record.jsonl"
    begin("bf16", Writer(path))

    def read() -> list[str]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line["kind"] for line in lines if line["event"] == "region"]

    return read


def train(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()


def product_outside() -> torch.dtype:
    return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_a_model_computes_in_16_bits_and_returns_fp32(kinds) -> None:
    model, x = Net(), torch.randn(3, 8)

    def loss() -> Tensor:
        out = model(x)
        assert out.dtype is (out @ out.T).dtype is torch.float32
        return out.square().mean()

    train(loss, torch.optim.SGD(model.parameters(), 0.1))
    assert model.seen == [BF16] * 4
    assert kinds() == ["model"]


def test_the_values_are_those_of_hand_written_amp(begin) -> None:
    """Autocast around the model alone, its result widened: bit for bit, loss and gradients."""

    def run(region) -> list[Tensor]:
        torch.manual_seed(1)
        model, x = Net(), torch.randn(3, 8)
        torch.optim.SGD(model.parameters(), 0.1)
        with region():
            out = model(x)
        loss = (out.float() @ out.float().T).square().mean()
        loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters())]

    by_hand = run(lambda: torch.autocast("cpu", BF16))
    begin("bf16")
    assert all(torch.equal(a, b) for a, b in zip(run(nullcontext), by_hand, strict=True))


def test_what_comes_between_backward_and_step_is_fp32(begin) -> None:
    begin("fp16")
    model, x = Net(), torch.randn(3, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        assert product_outside() is torch.float32
        model(x).square().mean().backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert (flat @ flat).dtype is torch.float32
        assert product_outside() is torch.float32
        optimizer.step()


def test_a_method_is_code_outside_and_its_layers_are_not(kinds) -> None:
    """`encode` is no call of the model; its one layer is, and opens no long region once a model has been called."""
    model, x = Net(), torch.randn(3, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(lambda: model(x).square().mean(), optimizer)
    model.seen.clear()
    encoded = model.encode(x)
    assert model.seen == [torch.float32]
    assert encoded.dtype is product_outside() is torch.float32
    assert kinds() == ["model"]


def test_layers_without_a_model_around_them_share_a_region_to_the_backward_pass(kinds) -> None:
    one, two, x = nn.Linear(8, 16), nn.Linear(16, 4), torch.randn(3, 8)
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], 0.1)

    def loss() -> Tensor:
        assert product_outside() is torch.float32
        hidden = one(x)
        assert hidden.dtype is product_outside() is BF16
        out = two(torch.tanh(hidden))
        assert out.dtype is BF16
        return out.float().square().mean()

    train(loss, optimizer)
    assert product_outside() is torch.float32
    with torch.no_grad():
        assert two(one(x)).dtype is product_outside() is torch.float32
    assert kinds() == ["layers"]


def test_a_layer_that_an_optimizer_holds_alone_is_a_model(kinds) -> None:
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    inside: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, args, out: inside.append(out.dtype))

    def loss() -> Tensor:
        out = layer(x)
        assert out.dtype is product_outside() is torch.float32
        return out.square().mean()

    train(loss, torch.optim.SGD(layer.parameters(), 0.1))
    assert inside == [BF16] * 2
    assert kinds() == ["model"]


def test_a_head_on_a_model_does_not_take_the_loss_into_its_region(kinds) -> None:
    body, head, x = Net(), nn.Linear(4, 2), torch.randn(3, 8)

    def loss() -> Tensor:
        out = head(body(x))
        assert out.dtype is product_outside() is torch.float32
        return out.square().mean()

    train(loss, torch.optim.SGD([*body.parameters(), *head.parameters()], 0.1))
    assert kinds() == ["model"]


def test_a_layer_before_a_model_may_be_multiplied_with_it(kinds) -> None:
    """In the first pass the loss is inside the region that the layer opened; from the second on all results are fp32."""
    image, text = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    a, b = torch.randn(3, 8), torch.randn(3, 8)
    seen: list[torch.dtype] = []

    def loss() -> Tensor:
        similar = image(a) @ text(b).T
        seen.append(similar.dtype)
        return similar.float().square().mean()

    train(loss, torch.optim.SGD([*image.parameters(), *text.parameters()], 0.1), steps=3)
    assert seen == [BF16, torch.float32, torch.float32]
    assert kinds() == ["layers", "model"]


class BareLoss(nn.Module):
    """A loss without parts."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(3, 4))

    def forward(self, out: Tensor) -> Tensor:
        self.seen = (out @ self.centers.T).dtype
        return (out @ self.centers.T).square().mean()


class ScaledLoss(nn.Module):
    """A loss with a parameter and parts, as metric learning has them."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Linear(4, 3, bias=False)

    def forward(self, out: Tensor) -> Tensor:
        self.seen = self.proxies(out).dtype
        return self.proxies(out).square().mean()


@pytest.mark.parametrize("loss", [ScaledLoss, BareLoss])
def test_a_module_used_as_a_loss_is_no_model(kinds, loss: type[nn.Module]) -> None:
    model, criterion, x = Net(), loss(), torch.randn(3, 8)
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], 0.1)
    train(lambda: criterion(model(x)), optimizer)
    assert criterion.seen is torch.float32
    assert model.seen == [BF16] * 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
def test_a_region_of_the_scripts_is_exactly_the_region(kinds, device: str) -> None:
    """Whatever device it names; a model called outside of it stays in fp32, as its author wrote it."""
    model, other, x = Net(), Net(), torch.randn(3, 8)

    def loss() -> Tensor:
        with torch.autocast(device, dtype=torch.float16):
            out = model(x)
            assert out.dtype is product_outside() is BF16
        assert product_outside() is torch.float32
        return out.float().square().mean()

    train(loss, torch.optim.SGD(model.parameters(), 0.1))
    other(x)
    assert model.seen == [BF16] * 4
    assert other.seen == [torch.float32] * 2
    assert kinds() == ["own"]


def test_a_region_of_the_scripts_inside_its_model_is_exactly_the_region(kinds) -> None:
    """Seen in the first call; from the second on the rest of the model is fp32, as its author wrote it."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Net(), nn.Linear(4, 2)
            self.heads: list[torch.dtype] = []

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cuda", dtype=torch.float16):
                hidden = self.body(x)
            out = self.head(hidden.float())
            self.heads.append(out.dtype)
            return out

    model, x = Part(), torch.randn(3, 8)
    with (
        pytest.warns(UserWarning, match="CUDA is not available")
        if not torch.cuda.is_available()
        else nullcontext()
    ):
        train(lambda: model(x).square().mean(), torch.optim.SGD(model.parameters(), 0.1), steps=3)
    assert model.body.seen == [BF16] * 6
    assert model.heads == [BF16, torch.float32, torch.float32]
    assert kinds() == ["own"] or kinds() == ["model", "own"]


def test_a_module_that_makes_its_layers_in_its_first_call_is_a_model(kinds) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.dtype] = []

        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "inner"):
                self.inner = nn.Linear(8, 4)
            out = self.inner(x)
            self.seen.append(out.dtype)
            return out

    model, x = Lazy(), torch.randn(3, 8)
    with torch.no_grad():
        model(x)
    out = model(x)
    assert model.seen[-1] is BF16
    assert out.dtype is torch.float32


@pytest.mark.parametrize("what", ["layers", "parameters"])
def test_regions_of_a_script_without_a_model_are_exactly_the_regions(kinds, what: str) -> None:
    one, two, x = nn.Linear(8, 16), nn.Linear(16, 4), torch.randn(3, 8)
    seen: list[torch.dtype] = []

    def loss() -> Tensor:
        assert product_outside() is torch.float32
        with torch.autocast("cpu", dtype=BF16):
            out = two(torch.tanh(one(x))) if what == "layers" else x @ one.weight.T
            seen.append(out.dtype)
        assert product_outside() is torch.float32
        return out.float().square().mean()

    train(loss, torch.optim.SGD([*one.parameters(), *two.parameters()], 0.1), steps=3)
    assert seen == [BF16] * 3
    assert kinds() == ["own"]


def test_a_region_of_an_evaluation_takes_nothings_place(kinds) -> None:
    model, x = Net(), torch.randn(3, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        model(x)
    train(lambda: model(x).square().mean(), optimizer)
    assert model.seen == [BF16] * 6
    assert kinds() == ["model"]


def test_a_region_of_a_librarys_takes_nothings_place(kinds, tmp_path: Path) -> None:
    """An installed package computes a part of the loss in a region of its own."""
    source = "def part(model, x):\n  with torch.autocast('cpu', dtype=torch.bfloat16):\n    return model(x)"
    library: dict[str, Any] = {"torch": torch, "__name__": "library"}
    exec(compile(source, str(tmp_path / "site-packages" / "library.py"), "exec"), library)
    model, other, x = Net(), Net(), torch.randn(3, 8)

    def loss() -> Tensor:
        return library["part"](other, x).float().square().mean() + model(x).square().mean()

    train(loss, torch.optim.SGD([*model.parameters(), *other.parameters()], 0.1))
    assert model.seen == other.seen == [BF16] * 4
    assert kinds() == ["model"]


def test_a_switch_that_is_off_around_a_forward_pass_is_no_wish(kinds) -> None:
    """`autocast(enabled=args.amp)` with the switch off: the recipe rules."""
    model, x = Net(), torch.randn(3, 8)

    def loss() -> Tensor:
        with torch.autocast("cpu", enabled=False):
            out = model(x)
            assert out.dtype is product_outside() is torch.float32
            return out.square().mean()

    train(loss, torch.optim.SGD(model.parameters(), 0.1))
    assert model.seen == [BF16] * 4
    assert kinds() == ["model"]


def test_a_region_that_is_off_inside_a_region_of_the_scripts_is_a_wish(kinds) -> None:
    model, exact, x = Net(), Net(), torch.randn(3, 8)

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=BF16):
            out = model(x)
            with torch.autocast("cpu", enabled=False):
                return exact(x).square().mean() + out.float().square().mean()

    train(loss, torch.optim.SGD([*model.parameters(), *exact.parameters()], 0.1))
    assert model.seen == [BF16] * 4
    assert exact.seen == [torch.float32] * 4


@pytest.mark.parametrize("off", [False, True], ids=["on", "off"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_inside_a_model_recomputes_where_it_computed(begin, reentrant: bool, off: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False) if off else nullcontext():
                return checkpoint(self.inner, x, use_reentrant=reentrant)

    begin("bf16")
    model, x = Outer(), torch.randn(3, 8, requires_grad=True)
    model(x).square().mean().backward()
    assert set(model.inner.seen) == {torch.float32 if off else BF16}
    assert len(model.inner.seen) > 2, "it was not recomputed"


def test_bare_parameters_have_a_region_from_a_step_to_the_backward_pass(kinds) -> None:
    weight, x = nn.Parameter(torch.randn(8, 4)), torch.randn(3, 8)
    optimizer = torch.optim.SGD([weight], 0.1)
    seen: list[torch.dtype] = []

    def loss() -> Tensor:
        out = x @ weight
        seen.append(out.dtype)
        return out.float().square().mean()

    train(loss, optimizer, steps=3)
    assert seen == [torch.float32, BF16, BF16]
    assert kinds() == ["parameters"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_copies_of_a_models_do_not_take_the_loss_into_its_region(
    kinds, dtype: torch.dtype
) -> None:
    """fp32 weights that a script keeps by itself, flattened; no module's call reaches them."""
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(3, 8, dtype=dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    sizes = [parameter.numel() for parameter in model.parameters()]
    flat = nn.Parameter(torch.cat([p.detach().float().flatten() for p in model.parameters()]))
    optimizer = torch.optim.SGD([flat], 0.1)
    seen: list[torch.dtype] = []
    for _ in range(3):
        model.zero_grad()
        out = model(x)
        seen.append(out.dtype)
        out.square().mean().backward()
        flat.grad = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        optimizer.step()
        for parameter, new in zip(model.parameters(), flat.detach().split(sizes), strict=True):
            parameter.data.copy_(new.reshape(parameter.shape))
    assert seen == [torch.float32] * 3
    assert kinds() == ["model"]


def test_a_closure_over_bare_parameters_runs_in_the_recipe(kinds) -> None:
    weight, x = nn.Parameter(torch.randn(8, 4)), torch.randn(3, 8)
    optimizer = torch.optim.LBFGS([weight], 0.1, max_iter=3)
    seen: list[torch.dtype] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        out = x @ weight
        seen.append(out.dtype)
        loss = out.float().square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        first = len(seen)
        optimizer.step(closure)
    assert set(seen[first:]) == {BF16}


def test_functional_calls_are_calls_of_the_model(kinds) -> None:
    model, x = Net(), torch.randn(3, 8)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def loss() -> Tensor:
        out = torch.func.functional_call(model, weights, (x,))
        assert out.dtype is product_outside() is torch.float32
        return out.square().mean()

    train(loss, torch.optim.SGD(weights.values(), 0.1), steps=3)
    assert model.seen == [BF16] * 6
    assert kinds() == ["model"]


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and tells what it does not trace
@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_a_graph_that_a_program_keeps_is_pythons_and_runs_in_the_recipe(begin, recipe: str) -> None:
    model, x = (
        nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(48, 2)),
        torch.randn(2, 4, 8),
    )
    written = torch.jit.trace(model, x).code, str(torch.export.export(model, (x,)).graph)
    takeover = begin(recipe)
    traced = torch.jit.trace(model, x)
    assert (traced.code, str(torch.export.export(model, (x,)).graph)) == written
    out = traced(x)
    assert out.dtype is torch.float32
    assert torch.equal(out, out.to(takeover.regions.dtype).float())


def test_threads_have_regions_of_their_own(begin) -> None:
    begin("bf16")
    model, other, x = Net(), Net(), torch.randn(3, 8)
    within: list[torch.dtype] = []

    def call() -> None:
        within.append(product_outside())
        within.append(other(x).dtype)

    def forward(*_: object) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    model.one.register_forward_hook(forward)
    model(x)
    assert within == [torch.float32, torch.float32]
    assert other.seen == [BF16] * 2


def test_building_a_model_is_outside(begin) -> None:
    """`parametrizations.orthogonal` factorizes the weight, which no 16-bit format can."""
    begin("bf16")
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    weight = layer.weight
    assert weight.dtype is torch.float32
    assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-5)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


@pytest.mark.parametrize("recipe", ["bf16", "bf16-true", "fp16-true", "bf16-lean"])
def test_a_parametrization_is_registered_outside(begin, recipe: str) -> None:
    """It may not change the dtype of the weight; with 16-bit weights, the model's first call does."""
    begin(recipe)
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    original = layer.parametrizations.weight.original
    assert raw_data(original).dtype is torch.float32
    model = nn.Sequential(layer, nn.Linear(4, 2))
    before = original.detach().clone()
    train(lambda: model(x).square().mean(), torch.optim.SGD(model.parameters(), 0.1))
    assert not torch.equal(layer.parametrizations.weight.original.float(), before.float())
    assert torch.equal(layer.weight, layer.weight.T)


@pytest.mark.parametrize("recipe", ["fp32", "tf32", "bf16", "fp16"])
def test_float64_stays_float64(begin, recipe: str) -> None:
    if recipe == "tf32":
        pytest.skip("has no units on a CPU")
    begin(recipe)
    model = Net().double()
    assert model(torch.randn(3, 8, dtype=torch.float64)).dtype is torch.float64
    assert model.seen == [torch.float64] * 2


def test_an_fp32_program_is_left_alone(begin) -> None:
    begin("fp32")
    model = Net()
    states: list[bool] = []
    model.one.register_forward_hook(lambda *_: states.append(torch.is_autocast_enabled("cpu")))
    model(torch.randn(3, 8)).sum().backward()
    assert states == [False]


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_sixteen_bits_reach_numpy_as_fp32(begin, recipe: str) -> None:
    """Inside a model, and where a region lasts to the backward pass; fp16 arrays would overflow in sums."""
    arrays: list[np.ndarray] = []

    class Noting(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.one(x).detach()
            arrays.extend([hidden.numpy(), np.asarray(hidden), np.from_dlpack(hidden)])
            return super().forward(x)

    begin(recipe)
    Noting()(torch.randn(3, 8))
    arrays.append(nn.Linear(8, 8)(torch.randn(3, 8)).detach().numpy())
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


@pytest.mark.parametrize("recipe", ["bf16", "fp16"])
def test_sixteen_bits_are_pickled_as_fp32(begin, recipe: str) -> None:
    """For a file, and for another process; a copy stays as it is, and so does what the script made in 16 bits."""
    begin(recipe)
    own = torch.ones(2, dtype=torch.float16)
    assert pickle.loads(pickle.dumps(own)).dtype is torch.float16
    hidden = nn.Linear(8, 8)(torch.randn(3, 8)).detach()
    assert hidden.dtype in (torch.float16, torch.bfloat16), (
        "a layer's, whose region lasts to the backward pass"
    )
    file, queue = io.BytesIO(), torch.multiprocessing.get_context("fork").SimpleQueue()
    torch.save(hidden, file)
    queue.put(hidden)
    file.seek(0)
    found = [pickle.loads(pickle.dumps(hidden)), torch.load(file), queue.get()]
    assert all(torch.equal(copied, hidden.float()) for copied in found)
    assert copy.copy(hidden).dtype is hidden.dtype


def test_what_a_model_puts_into_a_queue_is_pickled_as_fp32(begin) -> None:
    """By the queue's own thread, which is in no region."""
    queues = multiprocessing.get_context("fork")
    sent, joined = queues.Queue(), queues.JoinableQueue()
    hidden: list[Tensor] = []

    class Sending(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden.append(self.one(x).detach())
            sent.put({"hidden": hidden[0]})
            joined.put([hidden[0]])
            return super().forward(x)

    begin("bf16")
    Sending()(torch.randn(3, 8))
    assert hidden[0].dtype is torch.bfloat16
    for found in (sent.get(timeout=60)["hidden"], joined.get(timeout=60)[0]):
        assert torch.equal(found, hidden[0].float())


def test_the_scripts_own_fp16_tensors_reach_numpy_as_they_are(begin) -> None:
    begin("fp16")
    assert torch.ones(2, dtype=torch.float16).numpy().dtype == np.float16


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "bf16-true"])
def test_a_model_whose_parameters_are_no_iterator(begin, precision: str) -> None:
    """Programs that learn to learn write ``parameters`` anew, and return a list of theirs."""

    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.full((1, 2), 0.5))])

        def parameters(self, recurse: bool = True) -> Any:
            return self.weights

        def forward(self, inputs: Tensor) -> Tensor:
            return nn.functional.linear(inputs, self.weights[0])

    begin(precision)
    model = Learner()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    (model(torch.tensor([[1.0, 2.0]])).sum() / 4).backward()  # in fp16 times 65536
    optimizer.step()
    assert model.weights[0].tolist() == [[0.375, 0.25]]


@pytest.mark.parametrize(("graph", "after"), [(True, BF16), (False, torch.float32)])
def test_the_region_of_bare_parameters_goes_on_behind_gradients_that_have_a_graph(
    begin, graph: bool, after: torch.dtype
) -> None:
    """A program that learns to learn goes on with its forward pass; gradients without a graph are its end."""
    begin("bf16")
    weight, x = nn.Parameter(torch.randn(4, 4)), torch.randn(8, 4)
    optimizer = torch.optim.SGD([weight], lr=0.01)
    seen = []
    for _ in range(3):
        (gradient,) = torch.autograd.grad((x @ weight).square().mean(), weight, create_graph=graph)
        outputs = x @ (weight - 0.1 * gradient)
        seen.append(outputs.dtype)
        optimizer.zero_grad()
        outputs.square().mean().backward()
        optimizer.step()
    assert seen == [torch.float32, after, after], "what the region is is known from the first step on"


@pytest.mark.parametrize("precision", ["bf16-lean", "bf16-sr"])
def test_bare_parameters_stay_fp32_where_code_outside_of_models_uses_them(begin, precision: str) -> None:
    begin(precision)
    weight, net = nn.Parameter(torch.randn(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD([weight, *net.parameters()], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (net(torch.randn(8, 4)) @ weight).square().mean().backward()
        optimizer.step()
    assert raw_data(weight).dtype is torch.float32
    assert raw_data(net[0].weight).dtype is BF16
