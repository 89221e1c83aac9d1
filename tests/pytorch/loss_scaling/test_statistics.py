"""A skipped step leaves BatchNorm's running statistics as they were before the pass that it came from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.loss_scaling.statistics import Copies

from ..conftest import Begin

SCALED = "fp32:loss_scale=dynamic:init_scale=1024"


def compiled(test: Callable[..., None]) -> Callable[..., None]:
    """A test of compiled code: PyTorch warns on import of inductor, and while dynamo wraps tensors."""
    for warning in (".*torch.jit:DeprecationWarning", "The .grad attribute of a Tensor:UserWarning"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


def a_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def statistics(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def good() -> Tensor:
    return torch.linspace(-1, 1, 24).reshape(6, 4)


def bad() -> Tensor:
    return good() * float("inf")


class Two:
    """A net whose halves have an optimizer each: they step after one backward pass, one finitely, one badly."""

    def __init__(self) -> None:
        self.net = a_net()
        self.first = torch.optim.SGD(self.net[:2].parameters(), lr=0.1)
        self.second = torch.optim.SGD(self.net[2:].parameters(), lr=0.1)

    def a_pass(self, x: Tensor) -> None:
        self.first.zero_grad()
        self.second.zero_grad()
        self.net(x).square().mean().backward()

    def step(self, x: Tensor) -> None:
        self.a_pass(x)
        self.first.step()
        self.second.step()

    def a_pass_bad_for_the_second(self) -> None:
        self.a_pass(bad())
        for p in self.first.param_groups[0]["params"]:
            p.grad.zero_()


@pytest.mark.parametrize("order", ["good first", "bad first"])
def test_they_survive_a_bad_and_a_good_step_of_the_same_pass(begin: Begin, order: str) -> None:
    begin(SCALED)
    two = Two()
    two.step(good())
    before = statistics(two.net)
    two.a_pass_bad_for_the_second()
    assert not equal(statistics(two.net), before), "the control: the pass has changed them"
    for optimizer in (two.first, two.second) if order == "good first" else (two.second, two.first):
        optimizer.step()
    assert equal(statistics(two.net), before)


def test_a_forward_pass_between_the_two_steps_does_not_keep_what_the_bad_pass_made(begin: Begin) -> None:
    begin(SCALED)
    two = Two()
    two.step(good())
    before = statistics(two.net)
    two.a_pass_bad_for_the_second()
    two.first.step()
    two.net(good())
    two.second.step()
    assert equal(statistics(two.net), before)
    two.step(good())
    after = statistics(two.net)
    two.step(bad())
    assert equal(statistics(two.net), after)


def test_a_pass_of_its_own_keeps_what_the_pass_before_made(begin: Begin) -> None:
    """As a GAN trains: only the second pass is bad."""
    begin(SCALED)
    two = Two()
    two.a_pass(good())
    two.first.step()
    kept = statistics(two.net)
    two.a_pass(bad())
    two.second.step()
    assert equal(statistics(two.net), kept)


@pytest.mark.parametrize("steps", [3, 8])
def test_many_steps_with_one_optimizer(begin: Begin, steps: int) -> None:
    """Every third step is bad; what remains is what the others make, in plain PyTorch."""
    batches = [bad() if step % 3 == 1 else good() + step for step in range(steps)]

    def train(net: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x in batches:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        return {name: value.clone() for name, value in net.state_dict().items()}

    plain = train(a_net(), [x for x in batches if x.isfinite().all()])
    takeover = begin(SCALED)
    assert equal(train(a_net(), batches), plain)
    assert takeover.skipped == sum(not x.isfinite().all() for x in batches)


def test_a_layer_that_joins_later_does_not_make_the_copies_of_others_stale(begin: Begin) -> None:
    begin(SCALED)
    net, late = a_net(), nn.BatchNorm1d(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net(good()).square().mean().backward()
        optimizer.step()
    before = statistics(net)
    net(late(bad())).sum().backward()
    optimizer.step()
    assert equal(statistics(net), before)


def test_accumulation_goes_back_to_before_the_first_of_its_passes(begin: Begin) -> None:
    begin(SCALED)
    net = a_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = statistics(net)
    for x in (good(), bad(), good()):
        net(x).square().mean().backward()
    optimizer.step()
    assert equal(statistics(net), before)


def test_loaded_statistics_are_not_taken_back(begin: Begin) -> None:
    begin(SCALED)
    net, other = a_net(), a_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(good()).square().mean().backward()
    optimizer.step()
    for value in other.buffers():
        value.fill_(3)
    net.load_state_dict(other.state_dict())
    net(bad()).sum().backward()
    optimizer.step()
    assert equal(statistics(net), statistics(other))


Compile = Callable[[nn.Module], Callable[[Tensor], Tensor]]


def by_method(net: nn.Module) -> Callable[[Tensor], Tensor]:
    net.compile(backend="aot_eager")
    return net


def decorated(net: nn.Module) -> Callable[[Tensor], Tensor]:
    @torch.compile(backend="aot_eager")
    def forward(x: Tensor) -> Tensor:
        return net(x)  # type: ignore[no-any-return]

    return forward


@compiled
@pytest.mark.parametrize(
    "compile",
    [lambda net: torch.compile(net, backend="aot_eager"), by_method, decorated],
    ids=["module", "method", "function"],
)
def test_they_survive_in_compiled_code(begin: Begin, compile: Compile) -> None:
    torch.compiler.reset()
    takeover = begin(SCALED)
    net = copy.deepcopy(a_net())
    run = compile(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x in (good(), bad(), good(), bad()):
        before = statistics(net)
        optimizer.zero_grad()
        run(x).square().mean().backward()
        assert not equal(statistics(net), before), "the control: the forward pass changes them"
        optimizer.step()
        assert equal(statistics(net), before) is not bool(x.isfinite().all())
    assert takeover.skipped == 2


@compiled
def test_they_survive_where_many_steps_are_one_compiled_call(begin: Begin) -> None:
    torch.compiler.reset()
    takeover = begin(SCALED)
    net = pickle.loads(pickle.dumps(a_net()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @torch.compile(backend="aot_eager")
    def train(batches: list[Tensor]) -> None:
        for x in batches:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

    train([good()])
    once = statistics(net)
    train([bad(), bad()])
    assert equal(statistics(net), once)
    train([bad(), good(), bad()])
    assert not equal(statistics(net), once)
    assert all(value.isfinite().all() for value in statistics(net).values())
    assert takeover.skipped == 4


def test_copies_are_taken_again_in_the_same_memory_only_of_the_same_tensors() -> None:
    first, counter = torch.zeros(3), torch.tensor(7)
    copies = Copies([first, counter])
    first.add_(1)
    again = copies.again([first, counter])
    assert again is copies
    first.add_(1)
    counter.add_(1)
    again.put_back()
    assert torch.equal(first, torch.ones(3))
    assert counter.item() == 7
    assert copies.again([first]) is not copies


class Gan:
    """A generator and a discriminator with statistics each; the generator's graph outlives the other's step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.g = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.d = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.of_g = torch.optim.SGD(self.g.parameters(), lr=0.01)
        self.of_d = torch.optim.SGD(self.d.parameters(), lr=0.01)

    def step(self, for_d: float = 1.0, for_g: float = 1.0) -> None:
        """One step of each; a factor of infinity makes it a bad one."""
        fake = self.g(good())
        self.of_d.zero_grad()
        ((self.d(good()).mean() - self.d(fake.detach()).mean()) * for_d).backward()
        self.of_d.step()
        self.of_g.zero_grad()
        (self.d(fake).mean() * for_g).backward()
        self.of_g.step()

    def state(self) -> list[dict[str, Tensor]]:
        return [statistics(self.g), statistics(self.d)]


INF = float("inf")


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("first", [True, False], ids=["in the first step", "in the second"])
def test_a_skipped_step_of_the_discriminator_leaves_the_generators_statistics_alone(
    begin: Begin, first: bool
) -> None:
    """As if the discriminator had not been called with its own batch."""
    begin(SCALED)
    gan = Gan()
    if not first:
        gan.step()
    twin = copy.deepcopy(gan.g), copy.deepcopy(gan.d)
    gan.step(for_d=INF)
    twin[1](twin[0](good())).mean().backward()
    assert equal(statistics(gan.g), statistics(twin[0]))
    assert equal(statistics(gan.d), statistics(twin[1]))


@pytest.mark.usefixtures("followed")
@pytest.mark.parametrize("bad_d", [1.0, INF], ids=["after a good step", "after a bad one"])
def test_a_skipped_step_of_the_generator_undoes_what_its_graph_did_before_the_discriminators_step(
    begin: Begin, bad_d: float
) -> None:
    begin(SCALED)
    gan = Gan()
    for _ in range(2):
        gan.step()
    before = statistics(gan.g)
    gan.step(for_d=bad_d, for_g=INF)
    assert equal(statistics(gan.g), before)
    gan.step()
    assert not equal(statistics(gan.g), before)
