"""FLOPs by format, of what ran, against sizes worked out by hand."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.recording.flops import FORMULAS
from halfstep.pytorch.recording.products import ProductCounter
from halfstep.pytorch.recording.profiler import SWAPPED
from halfstep.record import NullWriter, Writer, read

from ..conftest import Begin

F = nn.functional
A, B = torch.randn(3, 4), torch.randn(4, 5)


def counted(program: Callable[[], object]) -> dict[str, int]:
    with ProductCounter() as counter:
        program()
    assert counter.counted.absent == ""
    return dict(counter.flops)


@pytest.mark.parametrize(
    ("program", "flops"),
    [
        (lambda: A @ B, {"fp32": 2 * 3 * 4 * 5}),
        (lambda: torch.mm(A, B, out=torch.empty(3, 5)), {"fp32": 2 * 3 * 4 * 5}),
        (lambda: torch.addmm(torch.ones(5), A, B, beta=0.5), {"fp32": 2 * 3 * 4 * 5}),
        (lambda: A.bfloat16() @ B.bfloat16(), {"bf16": 2 * 3 * 4 * 5}),
        (lambda: A.double() @ B.double(), {"fp64": 2 * 3 * 4 * 5}),
        (lambda: torch.baddbmm(torch.ones(1), A.expand(7, 3, 4), B.expand(7, 4, 5)), {"fp32": 7 * 2 * 3 * 4 * 5}),
        (lambda: torch.vmap(lambda row: row @ B)(A), {"fp32": 2 * 3 * 4 * 5}),
        (lambda: torch.vmap(lambda a: a @ B)(A.expand(7, 3, 4)), {"fp32": 7 * 2 * 3 * 4 * 5}),
        (lambda: torch.vmap(torch.mm)(A.expand(7, 3, 4), B.expand(7, 4, 5)), {"fp32": 7 * 2 * 3 * 4 * 5}),
        (lambda: A @ B[:, 0], {"fp32": 2 * 3 * 4}),
        (lambda: torch.addmv(torch.ones(3), A, B[:, 0]), {"fp32": 2 * 3 * 4}),
        (lambda: torch._int_mm(torch.ones(32, 8, dtype=torch.int8), torch.ones(8, 16, dtype=torch.int8)), {"int8": 2 * 32 * 8 * 16}),
        (lambda: torch.ops.aten._addmm_activation(torch.ones(5), A, B), {"fp32": 2 * 3 * 4 * 5}),
        (lambda: F.grouped_mm(torch.ones(16, 8), torch.ones(2, 8, 4), offs=torch.tensor([6, 16], dtype=torch.int32)), {"fp32": 2 * 16 * 8 * 4}),
        # an image of 9x9, stride 2, kernel of 3: 4x4 places
        (lambda: F.conv2d(torch.ones(2, 3, 9, 9), torch.ones(8, 3, 3, 3), stride=2), {"fp32": 2 * 2 * 16 * 8 * 3 * 9}),
        (lambda: F.conv1d(torch.ones(2, 4, 9), torch.ones(8, 2, 3), padding=1, groups=2), {"fp32": 2 * 2 * 9 * 8 * 2 * 3}),
        (lambda: F.conv_transpose1d(torch.ones(2, 4, 9), torch.ones(4, 8, 3)), {"fp32": 2 * 2 * 9 * 4 * 8 * 3}),
    ],
)  # fmt: skip
def test_flops(program: Callable[[], object], flops: dict[str, int]) -> None:
    assert counted(program) == flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("network", [nn.LSTM, nn.GRU])
def test_recurrent_networks(network: type[nn.RNNBase], dtype: torch.dtype) -> None:
    """For each row: gates x hidden by what comes in and by the state, per layer and direction; twice that backward."""
    net, x = network(4, 6, num_layers=2, bidirectional=True).to(dtype), torch.ones(3, 5, 4, dtype=dtype)
    gates = {nn.LSTM: 4, nn.GRU: 3}[network]
    forward = 2 * 3 * 5 * 2 * gates * 6 * ((4 + 6) + (12 + 6))
    name = format_name(dtype)
    assert counted(lambda: net(x)) == {name: forward}
    x.requires_grad_()
    out = net(x)[0]
    backward = counted(lambda: out.sum().backward())[name]
    # the product by a first state, which has no gradient, may be left out
    assert 2 * forward - 2 * 5 * 2 * 2 * 2 * gates * 6 * 6 <= backward <= 2 * forward


def test_cudnns_recurrent_networks() -> None:
    """By their arguments, as PyTorch's dispatcher has them: an LSTM of two layers that projects 6 to 2, both ways."""
    arguments = [(3, 5, 4), [], 0, [], (4, 5, 2), (4, 5, 6), 2, 6, 2, 2, False, 0.0, True, True, [], []]
    rows = 2 * 3 * 5 * 2 * (4 * 6 * ((4 + 2) + (4 + 2)) + 2 * 2 * 6)
    assert FORMULAS["aten::_cudnn_rnn"](arguments) == rows
    assert FORMULAS["aten::_cudnn_rnn_backward"]([*arguments[:6], [], [], [], [], *arguments[6:]]) == 2 * rows


def test_the_backward_pass_of_a_convolution_in_groups() -> None:
    """As much as the forward pass for each gradient: of the weight, and here of the input."""
    x, weight = torch.ones(2, 4, 9, requires_grad=True), torch.ones(8, 2, 3, requires_grad=True)
    out = F.conv1d(x, weight, groups=2)
    assert counted(lambda: out.sum().backward()) == {"fp32": 2 * 2 * 2 * 7 * 8 * 2 * 3}


def test_attention_and_its_backward_pass() -> None:
    """Two products forward, of 6x8 by 8x6 and 6x6 by 6x8; five backward, for the scores are computed again."""
    q = torch.randn(2, 3, 6, 8, requires_grad=True)
    product = 2 * 3 * 2 * 6 * 8 * 6
    assert counted(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) == {"fp32": 7 * product}


def test_all_threads_count() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def both() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: A @ B).result()

    assert counted(both) == {"fp32": 2 * 3 * 4 * 5}


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # while Dynamo wraps tensors
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own, on import of Inductor
@pytest.mark.parametrize("compiled", [False, True])
def test_products_of_an_optimizer_are_counted_apart(begin: Begin, tmp_path: Path, compiled: bool) -> None:
    """Muon's Newton-Schulz iteration runs in bf16, whatever the precision of training."""
    torch.compiler.reset()
    takeover = begin("fp32", Writer(tmp_path / "record"))
    net = nn.Linear(16, 8, bias=False)
    optimizer = torch.optim.Muon(net.parameters(), lr=0.01)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.randn(32, 16)).square().mean().backward()
        step()
    takeover.close()
    sample = read(tmp_path / "record").sample
    assert sample["matmul_flops"] == {"fp32": 2 * 2 * 32 * 16 * 8}
    # five iterations: X X^T, A A, B X of 8x16
    assert sample["optimizer_flops"] == {"bf16": 5 * (2 * 2 * 8 * 8 * 16 + 2 * 8 * 8 * 8)}


def test_a_closure_inside_of_an_optimizers_step_is_training(begin: Begin, tmp_path: Path) -> None:
    takeover = begin("fp32", Writer(tmp_path / "record"))
    net = nn.Linear(16, 8, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(torch.ones(32, 16)).square().mean()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    takeover.close()
    sample = read(tmp_path / "record").sample
    assert sample["matmul_flops"] == {"fp32": 2 * 2 * 32 * 16 * 8}
    assert "optimizer_flops" not in sample


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*TypedStorage:UserWarning")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_compiled_code_counts_as_it_ran(mode: str) -> None:
    """Inductor leaves out what nobody uses, and makes no product of an outer one (k = 1); tracing computes nothing."""
    torch.compiler.reset()
    weight = torch.randn(4, 5, requires_grad=True)

    @torch.compile(mode=mode)
    def compiled(x: Tensor) -> Tensor:
        unused = x @ weight
        outer = x[:, :1] @ weight[:1]
        return (x @ weight).relu() + outer + 0 * unused.shape[0]

    def step() -> None:
        compiled(A).sum().backward()

    # forward x @ weight; backward the weight's gradient of that, and of the outer product: (1, 3) by (3, 5)
    once = {"fp32": 2 * 2 * 3 * 4 * 5 + 2 * 3 * 5}
    assert counted(step) == once
    assert counted(step) == once


@pytest.mark.parametrize("units", ["native", "fp32"])
def test_a_product_called_by_its_own_name_counts_as_autocast_runs_it(begin: Begin, units: str) -> None:
    """The profiler shows it as the script called it, in fp32, and inside as it ran."""
    region = begin("fp16", products=units).regions.region
    a, b = torch.randn(4, 8), torch.randn(8, 2)
    with ProductCounter() as counter, region():
        torch.mm(a, b)
        torch.addmm(torch.randn(2), a, b)
        torch.bmm(a[None], b[None])
    assert counter.flops == {"fp16": 3 * 2 * 4 * 8 * 2}


def test_a_script_that_swaps_tensors_is_let_swap_them() -> None:
    """The profiler holds weak references to tensors whose shapes it notes, which swap_tensors refuses."""
    weight = torch.nn.Parameter(torch.ones(4, 4))
    with ProductCounter() as counter:
        (torch.ones(2, 4) @ weight).sum().backward()
        torch.utils.swap_tensors(weight, torch.nn.Parameter(torch.full((4, 4), 2.0)))
    assert weight[0, 0] == 2.0
    assert counter.flops == {}
    assert counter.counted.absent == SWAPPED


class Training:
    """A network of two layers, whose step takes a product per layer forward, and three backward."""

    flops = 5 * 2 * 4 * 16 * 16

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)

    def loss(self) -> Tensor:
        return self.net(torch.randn(4, 16)).square().mean()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def beside_one_that_prepares_data(pool: ThreadPoolExecutor) -> None:
    over, made = threading.Event(), torch.randn(8, 8)

    def prepare() -> None:
        while not over.is_set():
            torch.mm(made, made)

    prepared, training = pool.submit(prepare), Training()
    for _ in range(6):
        training.step()
    over.set()
    prepared.result()


def beside_others_that_train(pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(2)

    def train() -> None:
        training = Training()
        for _ in range(6):
            both.wait()
            training.step()

    for trained in [pool.submit(train), pool.submit(train)]:
        trained.result()


def with_a_forward_pass_elsewhere(pool: ThreadPoolExecutor) -> None:
    training = Training()
    for _ in range(6):
        training.optimizer.zero_grad()
        pool.submit(training.loss).result().backward()
        training.optimizer.step()


def with_the_optimizer_elsewhere(pool: ThreadPoolExecutor) -> None:
    training = Training()
    for _ in range(6):
        training.optimizer.zero_grad()
        training.loss().backward()
        pool.submit(training.optimizer.step).result()


def by_whichever_is_free(pool: ThreadPoolExecutor) -> None:
    training = Training()
    for _ in range(6):
        pool.submit(training.step).result()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    "program",
    [
        beside_one_that_prepares_data,
        beside_others_that_train,
        with_a_forward_pass_elsewhere,
        with_the_optimizer_elsewhere,
        by_whichever_is_free,
    ],
)
def test_a_step_has_the_products_of_the_threads_that_take_part(
    begin: Begin, tmp_path: Path, program: Callable[[ThreadPoolExecutor], None], recorded: bool
) -> None:
    """Also where nobody records, and the last line of a run says what ran."""
    writer = Writer(tmp_path / "record") if recorded else NullWriter()
    takeover = begin("bf16", writer)
    with ThreadPoolExecutor(3) as pool:
        program(pool)
    takeover.close()
    record = read(tmp_path / "record") if recorded else writer.kept
    assert record.sample["matmul_flops"] == {"bf16": Training.flops}
