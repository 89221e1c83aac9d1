"""Memory that is used again shows in no result."""

from __future__ import annotations

import threading

import pytest
import torch

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


def test_results_of_all_sizes_stay_what_they_were() -> None:
    """Each product overwrites the memory of the one before; one beyond LARGEST leaves it nothing."""
    installed = install([torch.float16])
    try:
        pairs = [
            (torch.randn(m, k).half(), torch.randn(k, n).half())
            for m, k, n in [
                (3, 4, 5),
                (256, 128, 64),
                (1040, 8, 1040),
                (64, 512, 256),
                (0, 4, 5),
                (7, 3000, 9),
            ]
        ]
        got = [a @ b for a, b in pairs]
    finally:
        installed.remove()
    assert [x.shape for x in got] == [(a.shape[0], b.shape[1]) for a, b in pairs]
    assert all(torch.equal(x, (a.float() @ b.float()).half()) for x, (a, b) in zip(got, pairs, strict=True))


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
