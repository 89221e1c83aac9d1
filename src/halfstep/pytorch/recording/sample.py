"""One step looked at closely: which dtypes its matrix products ran in, and where its memory went.

The step is slower for it, so it is one of the warm-up steps, and marked. Products are counted by a
TorchDispatchMode with the FLOP formulas of ``torch.utils.flop_counter``, below autocast: the dtype is that of
the operands that the kernel was really given.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from halfstep.pytorch.dtypes import format_name
from halfstep.pytorch.emulation.flops import emulated_flops
from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.recording.shapes import odd_sizes

aten = torch.ops.aten

#: why a record has no bytes of activations
FUNCTIONAL = "the step uses torch.func, which runs no hooks on the tensors that it keeps"


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any
) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}


class ProductCounter(TorchDispatchMode):
    """Counts the FLOPs of matrix products by the format of their operands, and those of odd sizes; sees casts.

    Args:
        cast: called with the tensor and the copy for every change of dtype.
    """

    def __init__(self, cast: Callable[[Tensor, Tensor], None] = lambda tensor, copy: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: dict[str, int] = defaultdict(int)
        self.odd = 0
        self._cast = cast

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in _FORMULAS:
            self._add(packet, args, _FORMULAS[packet](*args, **kwargs))
        elif func.namespace == "halfstep":
            for precision, flops in emulated_flops(packet.__name__, args, out).items():
                self.flops[precision] += flops
        elif packet in flop_registry:
            self._add(packet, args, flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet is aten._to_copy and out.dtype is not args[0].dtype:
            self._cast(args[0], out)
        return out

    def _add(self, packet: Any, args: Any, flops: int) -> None:
        # addmm and baddbmm are given the bias first; the last tensor is a factor in every one of these.
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        self.flops[_unit_of(operands[1])] += flops
        self.odd += flops * odd_sizes(packet.__name__, [operand.shape for operand in operands])


def _unit_of(operand: Tensor) -> str:
    """The format that a product's operands have inside the matrix unit."""
    if operand.dtype is torch.float32 and operand.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return format_name(operand.dtype)


class Activations:
    """Bytes that the graph keeps for the backward pass: the largest sum over the step's forward passes.

    Autocast keeps 16-bit copies of weights for as long; they are counted apart.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.casts = 0
        self._cast: dict[int, int] = {}
        self._total = 0
        self._live: dict[int, int] = {}
        self._weights: set[int] = set()

    def exclude(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these (the weights themselves are kept anyway)."""
        self._weights.update(storage[0] for t in tensors if (storage := _storage(t)) is not None)

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is kept; each storage counts once."""
        storage = _storage(tensor)
        if storage is None:
            return tensor
        address, size = storage
        if address not in self._weights and address not in self._cast:
            self._total += size - self._live.get(address, 0)
            self._live[address] = size
            self.peak = max(self.peak, self._total)
        return tensor

    def cast(self, tensor: Tensor, copy: Tensor) -> None:
        """Note a cast: one of a weight stays in autocast's cache until the pass is over."""
        weight, storage = _storage(tensor), _storage(copy)
        if weight is not None and storage is not None and weight[0] in self._weights:
            self._cast[storage[0]] = storage[1]
            self.casts = max(self.casts, sum(self._cast.values()))

    def passed(self) -> None:
        """A backward pass is over: its graph has been freed."""
        self._live.clear()
        self._cast.clear()
        self._total = 0


def _storage(tensor: Tensor) -> tuple[int, int] | None:
    """Where a tensor's memory begins, and its bytes; None of a sparse one, or another that has no single memory."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except (NotImplementedError, RuntimeError):
        return None


class Sample:
    """Looks at the step between :meth:`begin` and :meth:`end`, which are called at the ends of steps."""

    def __init__(self) -> None:
        self._activations = Activations()
        self._counter = ProductCounter(self._activations.cast)
        self._thread = 0
        self._fresh = True
        self._samples = 0
        self._absent: dict[str, str] = {}
        self._hooks: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
        self._patches = Patches()

    def begin(self, parameters: list[Tensor]) -> None:
        """Start to look, in this thread; ``parameters`` are the weights."""
        self._thread = threading.get_ident()
        self._activations.exclude(parameters)
        self._hooks = (self._activations.pack, lambda tensor: tensor)
        torch._C._autograd._push_saved_tensors_default_hooks(*self._hooks)
        self._patches.wrap(torch.autograd.graph, "disable_saved_tensors_hooks", self._disabling)
        self._counter.__enter__()  # type: ignore[no-untyped-call]
        # Not a global module hook: torch.compile warns of those.
        self._patches.wrap(nn.Module, "__call__", self._call)

    def backward_done(self) -> None:
        """A backward pass is over."""
        self._activations.passed()
        self._fresh = True

    def _disabling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """``torch.func`` refuses to run inside hooks, also these: they are taken away for as long."""

        @contextlib.contextmanager
        def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
            ours = self._innermost()
            if ours:
                self._absent["activations"] = FUNCTIONAL
                torch._C._autograd._pop_saved_tensors_default_hooks()
            try:
                with original(error_message):
                    yield
            finally:
                if ours:
                    torch._C._autograd._push_saved_tensors_default_hooks(*self._hooks)

        return disable_saved_tensors_hooks

    def _innermost(self) -> bool:
        """Whether nobody has put other hooks inside of these, in this thread."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        return top is not None and top[0] == self._activations.pack

    def _call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._fresh and not torch.compiler.is_compiling():
                self._count_samples(module, (*args, *kwargs.values()))
            return original(module, *args, **kwargs)

        return __call__

    def _count_samples(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and next(module.parameters(), None) is not None:
            self._fresh = False
            first = next((a for a in args if isinstance(a, Tensor) and a.dim() > 0), None)
            self._samples += 0 if first is None else first.shape[0]

    def end(self, parameters: list[Tensor], optimizers: Iterable[Optimizer]) -> dict[str, Any]:
        """Stop looking; what was seen, as the fields of a record's ``sample`` event. Bytes and FLOPs."""
        self._patches.undo()
        if threading.get_ident() != self._thread:
            return {"absent": "the training loop moved to another thread during the sampled step"}
        self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        torch._C._autograd._pop_saved_tensors_default_hooks()
        memory = memory_of(parameters, optimizers, self._activations.peak, self._activations.casts)
        return {
            "matmul_flops": dict(self._counter.flops),
            "odd_flops": self._counter.odd,
            "memory": {part: size for part, size in memory.items() if part not in self._absent},
            **({"memory_absent": self._absent} if self._absent else {}),
            "samples": self._samples or None,
        }


def memory_of(
    parameters: list[Tensor], optimizers: Iterable[Optimizer], activations: int, casts: int
) -> dict[str, int]:
    """Bytes of ``parameters``, their gradients and the state of ``optimizers``, beside what a pass keeps."""
    state = [
        t for o in optimizers for s in o.state.values() if isinstance(s, dict) for t in tensors_of(s.values())
    ]
    return {
        "weights": _bytes(parameters),
        "gradients": _bytes(p.grad for p in parameters if p.grad is not None),
        "optimizer": _bytes(state),
        "activations": activations,
        "casts": casts,
    }


def parameters_of(optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """Every parameter that ``optimizers`` train, once."""
    every = {id(p): p for o in optimizers for group in o.param_groups for p in group["params"]}
    return list(every.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
