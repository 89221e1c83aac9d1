"""Memory that is used again shows in no result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.pytorch.products.products import install
from halfstep.pytorch.products.scratch import LARGEST, SMALLEST, Scratch

LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "rows_apart": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "expanded": lambda x: x[..., :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 8), (SMALLEST // 64, 64), (4, 64, 128), (LARGEST // 512, 513)])
def test_a_widened_operand_is_floats_in_values_and_strides(layout: str, shape: tuple[int, ...]) -> None:
    scratch = Scratch()
    for _ in range(2):
        x = LAYOUTS[layout](torch.randn(shape).half())
        wide = scratch.widened(x, 0)
        assert wide.stride() == x.float().stride()
        assert torch.equal(wide, x.float())


Sizes = list[tuple[int, ...]]

PRODUCTS: Sizes = [(3, 4, 5), (256, 128, 64), (2900, 4, 2900), (64, 512, 256), (0, 4, 5), (7, 3000, 9)]
CONVOLUTIONS: Sizes = [(1, 2, 3, 4), (4, 16, 32, 16), (2, 64, 96, 64), (4, 16, 32, 16), (1, 32, 513, 2)]


def product(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """By transposed and by contiguous operands."""
    return torch.randn(k, m).mT, torch.randn(k, n)


def convolution(images: int, channels: int, width: int, out: int) -> tuple[Tensor, Tensor]:
    """By channels last and by contiguous operands."""
    x = torch.randn(images, channels, width, width).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 1, 1)


def attention(batch: int, heads: int, length: int, width: int) -> tuple[Tensor, ...]:
    """By q, k and v cut out of one product's result."""
    whole = torch.randn(batch, length, 3 * heads * width)
    return tuple(part.unflatten(-1, (heads, width)).transpose(1, 2) for part in whole.chunk(3, -1))


def cut(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """By some columns of a larger matrix, and by every other one of a transposed matrix."""
    return torch.randn(m, 2 * k + 5)[:, 3 : 3 + k], torch.randn(2 * n, k).mT[:, ::2]


CASES = {
    "product": (torch.mm, product, PRODUCTS),
    "cut": (torch.mm, cut, PRODUCTS),
    "convolution": (F.conv2d, convolution, CONVOLUTIONS),
    "attention": (
        F.scaled_dot_product_attention,
        attention,
        [(4, 8, 128, 32), (1, 1, 1, 40), (2, 3, 7, 5), (1, 8, 300, 512), (0, 2, 3, 32), (3, 2, 1, 16)],
    ),
}


def halves(x: Tensor) -> Tensor:
    """``x`` in fp16, where it lies in memory as it did: ``x.half()`` closes the gaps."""
    size = x.untyped_storage().size() // x.element_size()
    whole = x.as_strided((size,), (1,), 0).half()
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [1, 4])
def test_results_of_all_sizes_stay_what_they_were(products_kernel: str, case: str, threads: int) -> None:
    """Each call overwrites the memory of the one before in its thread; one beyond LARGEST leaves it nothing."""
    function, make, sizes = CASES[case]
    operands = [tuple(halves(x) for x in make(*size)) for size in sizes * threads]
    exact = [function(*(x.float() for x in each)).half() for each in operands]
    install([torch.float16])
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda each: function(*each), operands))
    assert all(map(torch.equal, got, exact))
    assert [x.stride() for x in got] == [x.stride() for x in exact]


def test_operands_cut_out_of_a_product_are_cast_with_the_others(products_kernel: str) -> None:
    """PyTorch casts what is cut otherwise: every other number, and rows that are too short."""
    if products_kernel == "python":
        pytest.skip("there PyTorch casts everything")
    install([torch.float16])
    assert copies(F.scaled_dot_product_attention, attention(4, 8, 128, 32)) == 0
    assert copies(torch.mm, cut(40, 64, 40)) == 0
    assert copies(torch.mm, cut(40, 31, 40)) == 2
    assert copies(torch.mm, (torch.randn(40, 128)[:, ::2], torch.randn(64, 40))) == 1


def copies(function: Callable[..., Tensor], operands: tuple[Tensor, ...]) -> int:
    """How many of the operands PyTorch casts."""
    halved = [halves(x) for x in operands]
    with torch.autograd.profiler.profile() as profile:
        function(*halved)
    return sum(event.name == "aten::_to_copy" for event in profile.function_events)


def test_memory_of_inference_mode_is_written_to_in_training(products_kernel: str) -> None:
    a, b = (x.half().requires_grad_() for x in product(256, 128, 256))
    install([torch.float16])
    with torch.inference_mode():
        inferred = a @ b
    trained = a @ b
    trained.sum().backward()
    assert torch.equal(trained, inferred)
    assert a.grad is not None


def test_memory_made_in_inference_mode_serves_training() -> None:
    scratch, x = Scratch(), torch.randn(SMALLEST).half()
    with torch.inference_mode():
        scratch.widened(x, 0)
        scratch.result()
    assert torch.equal(scratch.widened(x, 0), x.float())
    assert torch.add(x.float(), 1, out=scratch.result()).shape == x.shape


def test_only_so_much_memory_is_held_on_to() -> None:
    scratch = Scratch()
    for size, kept in ((LARGEST, 4 * LARGEST), (LARGEST + 1, 0)):
        scratch.result().resize_(size)
        scratch.let_go()
        assert scratch.result().untyped_storage().nbytes() == kept
    scratch.widened(torch.randn(LARGEST + 1).half(), 0)
    assert not scratch._operands


def test_threads_share_nothing() -> None:
    scratch, x = Scratch(), torch.randn(SMALLEST).half()
    wide = scratch.widened(x, 0)
    thread = threading.Thread(target=lambda: scratch.widened(-x, 0))
    thread.start()
    thread.join()
    assert torch.equal(wide, x.float())
