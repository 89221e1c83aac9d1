"""What a data loader prepares is what it would prepare without halfstep, whoever prepares it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

BF16 = torch.bfloat16


class Products(Dataset[Tensor]):
    """Samples that are computed, one of them by a thread."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(index))
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(x @ x))
        if index != 1:
            return x @ x
        thread.start()
        thread.join()
        return found[0]


class Stream(IterableDataset[Tensor]):
    def __iter__(self):
        return (Products()[index] for index in range(4))


class Multiplied:
    """Collated batches are computed, too."""

    def __call__(self, samples: list[Tensor]) -> Tensor:
        batch = torch.stack([sample.float() for sample in samples])
        return batch @ batch


@pytest.mark.parametrize("data", [Products, Stream])
@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_samples_are_the_same_in_every_process(begin, data: type, method: str | None) -> None:
    """Two products in bf16 would be off by 2^-9 relative; these are to be equal."""
    options = {"batch_size": 2, "collate_fn": Multiplied()}
    expected = list(DataLoader(data(), **options))
    begin("bf16")
    workers = 0 if method is None else 1
    batches = list(DataLoader(data(), num_workers=workers, multiprocessing_context=method, **options))
    assert [batch.dtype for batch in batches] == [torch.float32] * 2
    if method is None:  # a thread that a sample starts in the program's own process is in the recipe
        batches, expected = batches[1:], expected[1:]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batches, expected, strict=True))


def test_training_between_two_batches_is_in_the_recipe(begin) -> None:
    begin("bf16")
    layer, seen = nn.Linear(4, 4), []
    for batch in DataLoader(Products(), batch_size=2):
        seen.append(layer(batch.float()).dtype)
    assert seen == [BF16, BF16]
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is BF16
