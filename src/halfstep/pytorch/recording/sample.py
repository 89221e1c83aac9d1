"""Measures the memory of one step. It makes that step slower, which is one of the warm-up steps, and marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from halfstep.pytorch.nested import tensors_of
from halfstep.pytorch.recording.activations import Activations, KeptTensors
from halfstep.pytorch.unseen import unseen_look
from halfstep.takeover.looks import Looks

KEPT, SAMPLES, MEMORY = "activations", "samples per step", "memory by part"
_LEAVING = "activations, at the end"


class Sample:
    """Looks at the step between :meth:`begin` and :meth:`end`, which are called at the ends of steps."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._activations = Activations()
        self._kept = KeptTensors(self._note)
        self._fresh = True
        self._samples = 0

    @unseen_look(KEPT)
    def begin(self, parameters: list[Tensor]) -> None:
        """Start to look; ``parameters`` are the weights."""
        self._activations = Activations(parameters)
        self._kept.begin()

    @unseen_look(KEPT)
    def _note(self, tensor: Tensor) -> None:
        self._activations.pack(tensor)

    @unseen_look(KEPT)
    def begin_pass(self, outputs: Sequence[Tensor]) -> None:
        """A backward pass is about to start from ``outputs``."""
        self._activations.begin_pass(outputs)

    @unseen_look(KEPT)
    def backward_done(self) -> None:
        """A backward pass is over."""
        self._activations.passed()
        self._fresh = True

    def leave(self) -> bool:
        """Take away what could not be taken away at the step's end; returns whether nothing is left."""
        return self._looks.run(_LEAVING, 1, self._kept.leave) is not False

    @unseen_look(SAMPLES)
    def called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is called: the first one with parameters gets the samples of the step."""
        if self._fresh and torch.is_grad_enabled() and next(iter(module.parameters()), None) is not None:
            self._fresh = False
            first = next((a for a in args if isinstance(a, Tensor) and a.dim() > 0), None)
            self._samples += 0 if first is None else first.shape[0]

    def end(self, parameters: list[Tensor], optimizers: Iterable[Optimizer]) -> dict[str, object]:
        """Stop; returns the fields of a record's ``sample`` event, in bytes."""
        self._looks.run(KEPT, 1, self._kept.end)
        return {**self._memory(parameters, optimizers), "samples": self._samples or None}

    def _memory(self, parameters: list[Tensor], optimizers: Iterable[Optimizer]) -> dict[str, object]:
        memory = self._looks.run(MEMORY, 1, memory_of, parameters, optimizers) or {}
        absent = self._looks.absent(KEPT) or self._kept.absent
        if not absent:
            return {
                "memory": memory | {"activations": self._activations.peak, "casts": self._activations.casts}
            }
        return {"memory": memory, "memory_absent": {"activations": absent}}


def memory_of(parameters: list[Tensor], optimizers: Iterable[Optimizer]) -> dict[str, int]:
    """Bytes of ``parameters``, their gradients and the state of ``optimizers``."""
    state = [
        t for o in optimizers for s in o.state.values() if isinstance(s, dict) for t in tensors_of(s.values())
    ]
    return {
        "weights": _bytes(parameters),
        "gradients": _bytes(p.grad for p in parameters if p.grad is not None),
        "optimizer": _bytes(state),
    }


def parameters_of(optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """Every parameter of ``optimizers``, once."""
    every = {id(p): p for o in optimizers for group in o.param_groups for p in group["params"]}
    return list(every.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
