"""Measures in which formats weights, gradients and optimizer state are stored, at the end of the sampled step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.lean import registry
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.sample import parameters_of
from halfstep.record.stored import PARTS, REMAINDER
from halfstep.takeover.identity import IdentitySet


class StoredMeter:
    """Notes the modules that are called in the sampled step, since their frozen weights count, too.

    All weights of an optimizer that holds one of theirs count as well: another thread may be about to step it.
    """

    def __init__(self) -> None:
        self._called: IdentitySet[nn.Module] = IdentitySet()
        self._made: IdentitySet[Optimizer] = IdentitySet()

    def install(self, patches: Patches) -> None:
        """Wrap what gives optimizers their parameters."""

        def noticing(original: Callable[..., Any]) -> Callable[..., Any]:
            def add_param_group(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
                self._made.add(optimizer)
                return original(optimizer, *args, **kwargs)

            return add_param_group

        patches.wrap(Optimizer, "add_param_group", noticing)

    def called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is called."""
        self._called.add(module)

    def end(self, trained: Sequence[Tensor], optimizers: Iterable[Optimizer]) -> Mapping[str, object]:
        """The step is over; returns the fields of the record's ``stored`` event. It raises nothing."""
        try:
            modules, stepped = list(self._called), {id(o): o for o in optimizers}
            called = {id(p) for module in modules for p in module.parameters()}
            used = [
                o
                for o in self._made
                if id(o) in stepped or not called.isdisjoint(map(id, parameters_of([o])))
            ]
            return stored_in(
                [*trained, *parameters_of(used)], modules, (stepped | {id(o): o for o in used}).values()
            )
        except Exception as error:
            reason = f"a tensor could not be looked at: {str(error).partition(chr(10))[0]}"
            return {"absent": dict.fromkeys(PARTS, reason)}


def stored_in(
    trained: Iterable[Tensor], modules: Iterable[nn.Module], optimizers: Iterable[Optimizer]
) -> dict[str, dict[str, int]]:
    """Bytes by format of the weights, of their gradients, and of the optimizers' state, in this process.

    Memory that several tensors share (tied weights, views of a flat parameter) counts once. For a sharded tensor the
    part in this process counts; for a tensor made of others (DTensor, quantised weights) those count.

    Args:
        trained: the parameters that are trained.
        modules: modules whose other parameters count as well.
        optimizers: the optimizers that have stepped.
    """
    weights = {id(p): p for p in (*trained, *(p for module in modules for p in module.parameters()))}
    gradients = [p.grad for p in weights.values() if p.is_leaf and p.grad is not None]
    state = [tensor for optimizer in optimizers for tensor in _tensors(optimizer.state)]
    return {
        "weights": weights_by_format(weights.values()),
        "gradients": bytes_by_format(gradients),
        "optimizer": bytes_by_format(state),
    }


def weights_by_format(weights: Collection[Tensor]) -> dict[str, int]:
    """Bytes of ``weights`` by format, and of the remainders that make fp32 numbers of bf16 ones."""
    held = [(weight, registry.held(weight)) for weight in weights]
    stored = [piece for weight, known in held for piece in ((weight,) if known is None else known.pieces)]
    remainders = sum(known.remainder.nbytes for _, known in held if known is not None)
    return {**bytes_by_format(stored), **({REMAINDER: remainders} if remainders else {})}


def bytes_by_format(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Bytes of ``tensors`` by the format's name; views of the same memory count once.

    Example: ``bytes_by_format([torch.zeros(3), torch.zeros(2).half()])`` is ``{"fp32": 12, "fp16": 4}``.
    """
    pieces: dict[tuple[int, str], set[tuple[int, int]]] = defaultdict(set)
    sizes: dict[int, int] = {}
    for plain in (plain for tensor in tensors for plain in _plain(tensor)):
        storage = plain.untyped_storage()
        key, size = storage._cdata, plain.element_size()
        sizes[key] = storage.nbytes()
        pieces[key, format_name(plain.dtype)].add((int(plain.storage_offset()) * size, plain.numel() * size))
    found: dict[str, int] = defaultdict(int)
    for (key, name), held in pieces.items():
        # Pieces may overlap; and a sharded weight that was gathered for a while has no memory any more.
        found[name] += min(sizes[key], sum(size for _, size in held))
    return {name: size for name, size in found.items() if size}


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold the numbers of a tensor: itself, or those that it is made of."""
    made_of: Any = tensor
    if is_traceable_wrapper_subclass(made_of):
        names, _ = made_of.__tensor_flatten__()
        for inner in (getattr(made_of, name) for name in names):
            if isinstance(inner, Tensor):  # a DTensor names its mesh, too
                yield from _plain(inner)
    elif tensor.layout is torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout is torch.strided and tensor.device.type != "meta":
        yield tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an optimizer's state, in nested containers, too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in list(value.values()):  # another thread may add to it
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
