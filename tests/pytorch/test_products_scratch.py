"""Memory that is used again shows in no result."""

from __future__ import annotations

import threading
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

PRODUCTS: Sizes = [(3, 4, 5), (256, 128, 64), (1040, 8, 1040), (64, 512, 256), (0, 4, 5), (7, 3000, 9)]
CONVOLUTIONS: Sizes = [(1, 2, 3, 4), (4, 16, 32, 16), (2, 64, 96, 64), (4, 16, 32, 16), (2, 8, 20, 1)]


def product(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """By transposed and by contiguous operands."""
    return torch.randn(k, m).mT, torch.randn(k, n)


def convolution(images: int, channels: int, width: int, out: int) -> tuple[Tensor, Tensor]:
    """By channels last and by contiguous operands."""
    x = torch.randn(images, channels, width, width).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 1, 1)


CASES = {"product": (torch.mm, product, PRODUCTS), "convolution": (F.conv2d, convolution, CONVOLUTIONS)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [1, 4])
def test_results_of_all_sizes_stay_what_they_were(products_kernel: str, case: str, threads: int) -> None:
    """Each call overwrites the memory of the one before in its thread; one beyond LARGEST leaves it nothing."""
    function, make, sizes = CASES[case]
    operands = [tuple(x.half() for x in make(*size)) for size in sizes * threads]
    exact = [function(a.float(), b.float()).half() for a, b in operands]
    install([torch.float16])
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda pair: function(*pair), operands))
    assert all(map(torch.equal, got, exact))
    assert [x.stride() for x in got] == [x.stride() for x in exact]


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


def test_only_small_memory_is_held_on_to() -> None:
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
