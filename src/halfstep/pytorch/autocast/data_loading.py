"""A data loader prepares data in the dtypes that the script names, in whichever process it does so.

A hand-written autocast region is around the forward pass, not around the data. And a worker that is spawned, or comes
from a fork server, starts without the recipe: a forked worker has to give the same data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.utils.data._utils import worker
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.patches import Patches


class _Thread(threading.local):
    prepares = False


_thread = _Thread()


def prepares_data() -> bool:
    """Whether this thread is in a data loader, or belongs to one of its workers."""
    return _thread.prepares


def outside(regions: NoRegions, patches: Patches) -> None:
    """Let data loaders fetch and collate outside of ``regions``: in the program's own process, and in forked workers.

    Args:
        regions: the recipe's autocast.
    """
    if regions.dtype is None:
        return

    def paused(original: Callable[..., Any]) -> Callable[..., Any]:
        def _next_data(loader: Any) -> Any:
            outer, _thread.prepares = _thread.prepares, True
            try:
                with regions.aside():
                    return original(loader)
            finally:
                _thread.prepares = outer

        return _next_data

    def left(original: Callable[..., Any]) -> Callable[..., Any]:
        def _worker_loop(*args: Any, **kwargs: Any) -> Any:
            regions.leave()
            _thread.prepares = True
            return original(*args, **kwargs)

        return _worker_loop

    patches.wrap(_SingleProcessDataLoaderIter, "_next_data", paused)
    patches.wrap(worker, "_worker_loop", left)
