"""``torch.autograd.grad`` under a loss scale: it returns true gradients, finite wherever they are finite unscaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from halfstep.passed_on import Keywords
from halfstep.pytorch.devices import capturing
from halfstep.pytorch.loss_scaling.answers import Answers, Muted, Overflowed
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.repeats import Attempts, RandomState, quiet
from halfstep.pytorch.loss_scaling.scaled_pass import release
from halfstep.pytorch.loss_scaling.seeds import as_tuple, ceiling_of, given_seeds, scaled_seeds
from halfstep.pytorch.loss_scaling.values import differentiated_further, finite

if TYPE_CHECKING:
    from halfstep.pytorch.loss_scaling.pass_scales import PassScale
    from halfstep.pytorch.loss_scaling.scale import Scaling

#: PyTorch's error if the backward pass of compiled code has overwritten its saved tensors
_GIVEN_AWAY = "donated buffers"
#: a part of anomaly mode's error
_ANOMALY = "returned nan values"


class GivenAway(Exception):
    """The pass cannot be repeated: its graph is of compiled code, which has overwritten its saved tensors."""


def given_away(error: RuntimeError) -> Exception:
    """GivenAway if ``error`` says so; else the same error."""
    return GivenAway() if _GIVEN_AWAY in str(error) else error


class GradientPass:
    """One call of ``torch.autograd.grad``.

    Args:
        outputs: tensors or gradient edges.
        inputs: likewise, in the form in which the script gives them.
        grad_outputs: the gradients that the script gives for ``outputs``, or None.
    """

    def __init__(
        self,
        scaling: Scaling,
        original: Callable[..., Any],
        outputs: tuple[Any, ...],
        inputs: Any,
        grad_outputs: Any,
        retain_graph: bool | None,
        create_graph: bool,
        rest: Keywords,
    ) -> None:
        self._scaling, self._original, self._outputs = scaling, original, outputs
        self._inputs = tuple(inputs) if isinstance(inputs, Iterator) else inputs
        self._given = given_seeds(outputs, grad_outputs)
        self._keep = create_graph if retain_graph is None else retain_graph
        self._create, self._rest = create_graph, rest
        self._ceiling = ceiling_of(outputs)
        self._answers = Answers()
        self._retained = [
            (tensor, tensor.grad) for tensor in scaling.pass_gradients.retained() if tensor.retains_grad
        ]
        self._random: RandomState | None = None

    def results(self) -> Any:
        """The gradients, in the form in which PyTorch returns them."""
        if capturing():  # nothing may be read
            return self._once(None, self._keep)
        scales = self._scaling.pass_scales
        line = scales.here(self._scaling.value, self._create)
        try:
            with self._scaling.selective_checkpoints.repeatable():
                return self._repeated(line)
        finally:
            if line.hopeless and finite(o for o in self._outputs if isinstance(o, Tensor)):
                scales.lower_graphs(but=line)
            if self._create:
                scales.made_graph(line)

    def _repeated(self, line: PassScale) -> Any:
        if not line.repeatable or not (
            self._keep or all(isinstance(output, Tensor) for output in self._outputs)
        ):
            return self._unrepeatable(line)
        final = not self._create or not differentiated_further(self._outputs)
        searches = self._scaling.pass_scales.searches and final
        try:
            with quiet():
                results, kept = Attempts(
                    line,
                    self._scaling.pass_scales,
                    self._attempt,
                    searches,
                    lambda made: self._handed_out(made[0]),
                ).made()
        except GivenAway:
            line.repeatable = False
            return self._unrepeatable(line)
        self._let_have(kept)
        if not self._keep:
            self._release()
        return results

    def _attempt(self, scale: float, refuses: bool) -> Any:
        if self._random is None:
            self._random = RandomState()
        else:
            self._random.put_back()
            self._let_have([gradient for _, gradient in self._retained])
        self._answers.begin(refuses)
        try:
            results = self._once(scale, True, self._answers)
        except Overflowed:
            return None
        except RuntimeError as error:
            if refuses and _ANOMALY in str(error):
                return None
            raise given_away(error) from None
        kept = [tensor.grad for tensor, _ in self._retained]
        return (results, kept) if not refuses or finite(self._handed_out(results)) else None

    def _once(self, scale: float | None, keep: bool, answers: Answers | None = None) -> Any:
        """The pass under ``scale``, or under the loss scale."""
        scaling = self._scaling
        with scaling.running(ceiling=self._ceiling, scale=scale, answers=answers) as under:
            scaling.pass_gradients.reach_inside(scaling.pass_gradients.retained())
            seeds = scaled_seeds(self._outputs, self._given, under)
            try:
                scaled = self._original(self._outputs, self._inputs, seeds, keep, self._create, **self._rest)
            finally:
                scaling.pass_gradients.pass_by()
                scaling.pass_gradients.unscale_in_graph(1.0 / under)
        # Not in place: two inputs may be given one and the same gradient.
        if isinstance(scaled, dict):
            return {key: _times(gradient, 1.0 / under) for key, gradient in scaled.items()}
        return tuple(_times(gradient, 1.0 / under) for gradient in scaled)

    def _unrepeatable(self, line: PassScale) -> Any:
        """Return an overflow to the script, and lower the scale of the next pass.

        Compiled code overwrites its saved tensors, and a graph that starts from gradient edges cannot be freed later.
        """
        results = self._once(line.value, self._keep)
        if finite(self._handed_out(results)):
            self._scaling.pass_scales.succeeded(line, line.value)
        else:
            line.lower()
        return results

    def _handed_out(self, results: Any) -> Iterable[Tensor]:
        gradients = results.values() if isinstance(results, dict) else results
        yield from (gradient for gradient in gradients if gradient is not None)
        yield from (tensor.grad for tensor, _ in self._retained if tensor.grad is not None)

    def _let_have(self, gradients: Sequence[Tensor | None]) -> None:
        """Set ``.grad`` of tensors inside the graph for which the script has called ``retain_grad``."""
        for (tensor, _), gradient in zip(self._retained, gradients, strict=True):
            tensor.grad = gradient

    def _release(self) -> None:
        """Free the graph, as plain PyTorch would have by now."""
        inputs = as_tuple(self._inputs.values() if isinstance(self._inputs, dict) else self._inputs)
        release_graph(self._scaling, self._original, self._outputs, inputs)


class _Nothing(torch.autograd.Function):
    """Gives a backward pass no gradient, so that the nodes after it compute nothing."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.new_empty(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


def release_graph(
    scaling: Scaling, grad: Callable[..., Any], outputs: Sequence[Tensor], inputs: Sequence[Any]
) -> None:
    """Free the buffers of the graph from ``outputs`` to ``inputs``; without inputs, to its leaves.

    A pass that does not keep its graph does the same at its end.

    It is done in C++. Without a compiler, or if an input is a gradient edge, it is done by a pass of ``grad`` without
    gradients, which unpacks the saved tensors once more. Inside ``torch.func`` such a pass cannot start; there the
    graph ends with the transform.
    """
    if all(isinstance(tensor, Tensor) for tensor in inputs) and release(outputs, inputs):
        return
    if torch._C._functorch.maybe_current_level() is not None:
        return
    inputs = inputs or leaves_of(outputs)
    with scaling.running(scale=1.0, answers=Muted()):
        with torch.enable_grad():
            ends = [_Nothing.apply(output) for output in outputs if output.requires_grad]  # type: ignore[no-untyped-call]
        grad(ends, inputs, [torch.empty_like(end) for end in ends], allow_unused=True)


def _times(tensor: Tensor | None, factor: float) -> Tensor | None:
    return None if tensor is None else tensor * factor
