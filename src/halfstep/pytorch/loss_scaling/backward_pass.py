"""``backward`` where no optimizer uses the gradients in ``.grad``, but the script itself.

No step can be skipped there, so such a pass is repeated, as those of ``torch.autograd.grad`` are (repeats.py). To the
gradients of before it adds gradients that are finite wherever they are finite unscaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from halfstep.pytorch.devices import has_ranks
from halfstep.pytorch.loss_scaling.answers import Answers, Overflowed
from halfstep.pytorch.loss_scaling.gradient_pass import GivenAway, given_away, release_graph
from halfstep.pytorch.loss_scaling.pass_scales import PassScale
from halfstep.pytorch.loss_scaling.repeats import Attempts, RandomState
from halfstep.pytorch.loss_scaling.scale import Scaling
from halfstep.pytorch.loss_scaling.seeds import ceiling_of, scaled_seeds
from halfstep.pytorch.loss_scaling.values import finite


class Unrepeatable(Exception):
    """A pass inside this one accumulates gradients into other tensors."""


class BackwardPass:
    """One call of ``torch.autograd.backward``.

    Args:
        given: the gradients that the script gives for them.
        keeps: whether the script keeps the graph.
        targets: tensors that the pass accumulates into.
    """

    def __init__(
        self,
        scaling: Scaling,
        original: Callable[..., None],
        grad: Callable[..., Any],
        outputs: tuple[Any, ...],
        given: Sequence[Tensor | None],
        keeps: bool,
        inputs: Any,
        targets: Sequence[Tensor],
    ) -> None:
        self._scaling, self._original, self._grad = scaling, original, grad
        self._outputs, self._given, self._keeps, self._inputs = outputs, given, keeps, inputs
        self._answers = Answers(targets)
        kept = [tensor for tensor in scaling.pass_gradients.retained() if tensor.retains_grad]
        self._targets = [*targets, *kept]
        self._before = [tensor.grad for tensor in self._targets]
        self._random: RandomState | None = None

    @staticmethod
    def serves(outputs: Sequence[Any], targets: Sequence[Tensor]) -> bool:
        """Whether such a pass can be repeated.

        It cannot if a hook uses ``.grad`` up at once, if a gradient is part of a graph or belongs to a tensor inside
        one, or if other ranks take part.
        """
        if not all(tensor.is_leaf for tensor in targets):
            return False
        hooks = any(getattr(tensor, "_post_accumulate_grad_hooks", None) for tensor in targets)
        graphs = any(tensor.grad is not None and tensor.grad.requires_grad for tensor in targets)
        alone = not has_ranks()
        return alone and not hooks and not graphs and all(isinstance(output, Tensor) for output in outputs)

    def made(self) -> bool:
        """Make the pass; returns False if it was not made: then nothing has changed, and the caller has to make it."""
        line = self._scaling.pass_scales.here(self._scaling.value, "backward")
        if not line.repeatable:
            return False
        with self._scaling.selective_checkpoints.repeatable():
            return self._made(line)

    def _made(self, line: PassScale) -> bool:
        scales = self._scaling.pass_scales
        try:
            found = Attempts(line, scales, self._attempt, scales.searches, _given).made()
        except (GivenAway, Unrepeatable):
            line.repeatable = False
            self._scaling.selective_checkpoints.put_back()
            return False
        finally:
            self._let_have(self._before)
        if line.hopeless and finite(self._outputs):
            scales.lower_graphs()
        self._add(found)
        if not self._keeps:
            release_graph(
                self._scaling, self._grad, self._outputs, () if self._inputs is None else self._inputs
            )
        return True

    def _attempt(self, scale: float, refuses: bool) -> list[Tensor | None] | None:
        if self._random is None:
            self._random = RandomState()
        else:
            self._random.put_back()
        self._let_have([None] * len(self._targets))
        self._answers.begin(refuses)
        try:
            self._once(scale)
        except Overflowed:
            return None
        except RuntimeError as error:
            raise given_away(error) from None
        found = [tensor.grad for tensor in self._targets]
        return found if not refuses or finite(grad for grad in found if grad is not None) else None

    def _once(self, scale: float) -> None:
        scaling, pass_gradients = self._scaling, self._scaling.pass_gradients
        with scaling.running(lambda: self._targets, ceiling_of(self._outputs), scale, self._answers) as under:
            pass_gradients.reach([tensor for tensor in self._targets if tensor.is_leaf])
            pass_gradients.reach_inside([tensor for tensor in self._targets if not tensor.is_leaf])
            try:
                seeds = scaled_seeds(self._outputs, self._given, under)
                self._original(self._outputs, seeds, True, False, None, self._inputs)
            finally:
                pass_gradients.pass_by()
                pass_gradients.unscale(1.0 / under)
                pass_gradients.put_back()

    def _let_have(self, gradients: Sequence[Tensor | None]) -> None:
        for tensor, gradient in zip(self._targets, gradients, strict=True):
            tensor.grad = gradient

    @torch.no_grad()
    def _add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add ``gradients`` to the targets' own in place, as PyTorch accumulates."""
        for tensor, gradient in zip(self._targets, gradients, strict=True):
            if gradient is not None and tensor.grad is None:
                tensor.grad = gradient
            elif gradient is not None and tensor.grad is not None:
                tensor.grad += gradient


def _given(gradients: Iterable[Tensor | None]) -> Iterator[Tensor]:
    return (gradient for gradient in gradients if gradient is not None)
