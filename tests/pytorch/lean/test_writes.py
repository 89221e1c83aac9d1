"""Whoever reads or writes a parameter from outside reads and writes its fp32 numbers, as in plain PyTorch."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.lean import functions
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.split import Parts, split
from halfstep.pytorch.lean.writes import Writes
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.raw_data import raw_data


@pytest.fixture
def masters() -> Iterator[Masters]:
    patches, masters = Patches(), Masters()
    functions.install(masters, patches)
    Writes(masters).install(patches)
    yield masters
    patches.undo()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


class Clipped:
    """Looks at a parameter's data once, and writes into it later."""


def clamp_data(m: nn.Module) -> None:
    for p in m.parameters():
        p.data.clamp_(-0.1, 0.1)


def data_kept_for_later(m: nn.Module) -> None:
    kept = [p.data for p in m.parameters()]
    for number, data in enumerate(kept):
        data.add_(number * 1e-4)
    m.kept = kept


def part_of_data(m: nn.Module) -> None:
    m[0].weight.data[1:3, ::2].mul_(1.001)


def in_place(m: nn.Module) -> None:
    with torch.no_grad():
        m[0].weight.mul_(0.999)
        m[0].weight.clamp_(max=0.3)
        weight = m[2].weight
        weight += 1e-5
        weight[1] = 0.1234567


def initialised(m: nn.Module) -> None:
    torch.manual_seed(3)
    nn.init.kaiming_normal_(m[0].weight)
    nn.init.orthogonal_(m[2].weight)


def loaded(m: nn.Module) -> None:
    m.load_state_dict({name: torch.sin(value) for name, value in model().state_dict().items()})


def swapped_and_back(m: nn.Module) -> None:
    """An average of weights takes the place of the weights for a while."""
    backup = [p.data for p in m.parameters()]
    for p in m.parameters():
        p.data = p.data * 0.5
        p.data.mul_(3)
    m.average = [p.data.clone() for p in m.parameters()]
    for p, data in zip(m.parameters(), backup, strict=True):
        p.data = data


def through_state_dict(m: nn.Module) -> None:
    for value in m.state_dict().values():
        value.mul_(0.9999)


def copied(m: nn.Module) -> None:
    with torch.no_grad():
        for p, q in zip(m.parameters(), model().parameters(), strict=True):
            p.copy_(q.cos())


def from_numpy(m: nn.Module) -> None:
    m[0].weight.detach().numpy()[2] += 0.001


def moved(m: nn.Module) -> None:
    m.to("cpu").float()
    m.to(memory_format=torch.channels_last)


def foreach(m: nn.Module) -> None:
    """As an average of weights is updated, or weights are decayed by hand."""
    parameters, average = list(m.parameters()), [p.detach().clone() for p in m.parameters()]
    with torch.no_grad():
        torch._foreach_mul_(parameters, 0.9999)
        torch._foreach_lerp_(average, parameters, 0.001)
    m.average = average


def vector(m: nn.Module) -> None:
    flat = nn.utils.parameters_to_vector(m.parameters())
    nn.utils.vector_to_parameters(flat * 1.0001, m.parameters())


def given_to_others(m: nn.Module) -> None:
    """As averages and copies of weights are kept: the parameter is an argument of theirs."""
    average, copies = model(), [torch.zeros_like(p) for p in m.parameters()]
    with torch.no_grad():
        for a, c, p in zip(average.parameters(), copies, m.parameters(), strict=True):
            p.add_(1e-5)
            c.copy_(p)
            c += p
            a.lerp_(p, 0.001).add_(p, alpha=1e-4)
            a.copy_(torch.lerp(a, p, weight=0.1))
            assert torch.equal(p, p.detach())
            assert torch.allclose(p, p.detach(), rtol=0)
    m.average = [*average.parameters(), *copies]


def looked_at(m: nn.Module) -> None:
    """As statistics of weights are computed; PyTorch has no singular values of bf16."""
    weight, ones = m[0].weight, torch.ones(5)
    m.average = [weight @ ones, ones @ weight.T, weight.mT @ weight, torch.linalg.svdvals(weight), weight.quantile(0.5),
                 torch.quantile(weight, 0.5), torch.norm(weight), torch.topk(torch.abs(weight).view(-1), 5).indices, weight.sort().values, weight.argmax(),
                 torch.autograd.grad(torch.linalg.norm(weight), weight)[0].bfloat16().float(),
                 torch.tensor(list(repr(weight).encode()))]  # fmt: skip


WRITES = [clamp_data, data_kept_for_later, part_of_data, in_place, initialised, loaded, swapped_and_back,
          through_state_dict, copied, from_numpy, moved, foreach, vector, given_to_others, looked_at]  # fmt: skip


def numbers(m: nn.Module) -> list[Tensor]:
    return [value.clone() for value in m.state_dict().values()]


def assert_whole(masters: Masters, m: nn.Module) -> None:
    """Each weight is bf16, of its fp32 numbers rounded half away."""
    masters.flush()
    weights = [p for p in m.parameters() if p.ndim == 2]
    assert len(weights) == 2
    for p in weights:
        master = masters.of(p)
        assert master is not None
        assert raw_data(p).dtype is torch.bfloat16
        wide = masters.wide(master)
        parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
        split([wide], [parts])
        assert torch.equal(raw_data(p), parts.weight)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_write_from_outside_is_that_of_plain_pytorch(
    write: Callable[[nn.Module], None], masters: Masters
) -> None:
    plain, ours = model(), model()
    masters.hold(ours.parameters())
    for m in (plain, ours):
        write(m)
    for a, b in zip(numbers(ours), numbers(plain), strict=True):
        assert a.dtype is torch.float32
        assert torch.equal(a, b)
    for a, b in zip(vars(ours).get("average", []), vars(plain).get("average", []), strict=True):
        assert torch.equal(a, b)
    assert_whole(masters, ours)
    vars(ours).clear()


def test_what_is_shown_follows_the_weights_as_long_as_anybody_holds_it(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    master = masters.of(m[0].weight)
    assert master is not None
    held = m.state_dict()["0.weight"]
    masters.narrow(masters.widen([master]))
    with torch.no_grad():
        m[0].weight.add_(1)
    assert torch.equal(held, masters.wide(master))
    held.mul_(2)
    masters.flush()
    assert torch.equal(m[0].weight.detach(), held)
    assert master.shown is not None
    del held
    masters.flush()
    assert master.shown is None


def pickled(m: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(m))  # type: ignore[no-any-return]


def saved(m: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(m, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("copying", [copy.deepcopy, pickled, saved])
def test_a_copy_of_a_model_is_fp32(copying: Callable[[nn.Module], nn.Module], masters: Masters) -> None:
    expected, m = model(), model()
    masters.hold(m.parameters())
    made = copying(m)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    for p, q in zip(made.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not any(masters.of(p) for p in made.parameters())
    assert_whole(masters, m)


def test_a_state_dict_is_fp32_and_loads_anywhere(masters: Masters) -> None:
    expected, m, other = model(), model(), model()
    masters.hold(m.parameters())
    state = m.state_dict()
    for name, value in expected.state_dict().items():
        assert state[name].dtype is torch.float32
        assert torch.equal(state[name], value)
    other[0].weight.data.zero_()
    other.load_state_dict(state)
    assert torch.equal(other[0].weight, expected[0].weight)


@pytest.mark.parametrize(
    "read",
    [lambda p: p.clone(), lambda p: p.detach().clone(), lambda p: p.float(), lambda p: p.to(torch.float32),
     lambda p: p.data.clone()],
)  # fmt: skip
def test_a_copy_of_a_parameter_is_fp32_and_its_own(
    read: Callable[[Tensor], Tensor], masters: Masters
) -> None:
    """An average of weights in bf16 with decay 0.999 would never move."""
    expected, m = model()[0].weight.detach(), model()
    masters.hold(m.parameters())
    with torch.no_grad():
        made = read(m[0].weight)
        assert torch.equal(made, expected)
        made.zero_()
    assert torch.equal(m[0].weight.detach(), expected)


def test_gradients_pass_through_a_copy(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    (m[0].weight.clone() * 3).sum().backward()
    assert torch.equal(m[0].weight.grad, torch.full((4, 5), 3.0, dtype=torch.bfloat16))


def test_in_place_under_grad_is_refused_as_in_plain_pytorch(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place"):
        m[0].weight.mul_(2)


def test_a_write_that_is_no_method_of_the_parameter_leaves_no_remainder(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    with torch.no_grad():
        torch.clamp_(m[0].weight, max=0.1)
    assert torch.equal(m[0].weight.detach(), raw_data(m[0].weight).float())


def test_the_norm_and_the_factor_that_gradients_are_clipped_by_are_fp32(masters: Masters) -> None:
    m, expected = model(), []
    masters.hold(m.parameters())
    for p in m.parameters():
        p.grad = torch.randn(p.shape).to(raw_data(p).dtype)
        expected.append(p.grad.double().square().sum())
    assert m[0].weight.grad.dtype is torch.bfloat16
    before = [p.grad.float().clone() for p in m.parameters()]
    norm = nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    assert norm.dtype is torch.float32
    assert norm.item() == pytest.approx(sum(expected).sqrt().item(), rel=1e-6)
    for p, gradient in zip(m.parameters(), before, strict=True):
        assert torch.equal(p.grad, (gradient * (1.0 / (norm + 1e-6))).to(p.grad.dtype))


def test_float64_goes_its_own_way(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    expected = model().double()
    m.double()
    assert torch.equal(m[0].weight, expected[0].weight)
    assert masters.of(m[0].weight) is None


def test_a_parameter_that_is_gone_leaves_nothing(masters: Masters) -> None:
    m: Any = model()
    masters.hold(m.parameters())
    assert len(list(masters)) == 2
    del m
    assert list(masters) == []


def test_what_is_shown_follows_the_weights_after_a_model_was_called_in_a_step(masters: Masters) -> None:
    m = model()
    masters.hold(m.parameters())
    shown = m[0].weight.data
    wide = masters.widen(masters)
    masters.flush()  # as a model's call does
    masters.narrow(wide)
    shown.fill_(0.5)
    masters.flush()
    assert torch.equal(raw_data(m[0].weight), torch.full((4, 5), 0.5, dtype=torch.bfloat16))


def test_a_thread_leaves_alone_what_another_one_uses(masters: Masters) -> None:
    """It may be about to compute with them: what it has in its hands must not change under it."""
    m = model()
    masters.hold(m.parameters())
    seen: list[bool] = []

    def other() -> None:
        masters.flush()
        seen.append(masters.stepping)

    def in_a_thread(act: Callable[[], None]) -> None:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    masters.open(masters)
    masters.stepping = True
    in_a_thread(other)
    assert raw_data(m[0].weight).dtype is torch.float32
    assert seen == [False]
    masters.flush()
    assert raw_data(m[0].weight).dtype is torch.bfloat16
    in_a_thread(lambda: masters.open(masters))  # it has ended: nobody else uses them
    masters.flush()
    assert raw_data(m[0].weight).dtype is torch.bfloat16
