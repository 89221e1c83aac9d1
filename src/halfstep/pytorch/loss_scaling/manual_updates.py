"""Programs that update their weights by hand, with no optimizer of ``torch.optim``: a step is then a backward pass.

No function can be wrapped for ``p.data.add_(p.grad, alpha=-lr)``, so a step ends when its gradients exist. It cannot be
skipped either: where bad steps are to change nothing, gradients that are not finite become zero.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._functorch import apis, eager_transforms
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from halfstep.passed_on import ParamGroup
from halfstep.pytorch.loss_scaling.leaves import leaves_of
from halfstep.pytorch.loss_scaling.pass_scales import Line, here
from halfstep.pytorch.loss_scaling.values import differentiated_further, innermost, layers
from halfstep.pytorch.loss_scaling.values import finite as all_finite
from halfstep.pytorch.patches import Patches
from halfstep.takeover.base import PROFILED_STEP
from halfstep.takeover.identity import IdentitySet

if TYPE_CHECKING:
    from halfstep.pytorch.moments import Moments

TOLD = "the program has no optimizer of torch.optim: a step is a backward pass"
TOLD_OF_ZEROS = "; one whose gradients are not finite leaves zeros in .grad"


class GraphGradients:
    """Gradients that are part of a graph.

    Attributes:
        losses: the losses whose gradients they are.
        finite: whether they were finite.
        line: the line of the script that asked for them.
        used: whether a later pass has gone through them.
    """

    def __init__(self, losses: list[Tensor], gradients: Sequence[Tensor], finite: bool, line: Line) -> None:
        self.losses, self.finite, self.line = losses, finite, line
        self.used = False
        for gradient in gradients:
            for tensor in layers(gradient):  # each transform around has a graph of its own
                if (node := tensor.grad_fn) is not None:
                    node.register_hook(self._go_through)

    def _go_through(self, *_: Any) -> None:
        self.used = True


class ManualUpdates:
    """Makes a step of each backward pass, until the program makes an optimizer.

    Attributes:
        active: whether the program has made no optimizer so far.
        optimizers: the optimizers that it has made.
        parameters: the leaves that the last pass reached, if needed: in the early steps that are looked at, and if bad
            steps are to change nothing.

    Args:
        guards: whether bad steps are to change nothing.
        watches: whether every step is looked at.
    """

    def __init__(self, guards: bool, watches: bool, moments: Moments) -> None:
        self._guards = guards
        self._told = TOLD + (TOLD_OF_ZEROS if self._guards else "")
        self._watches = watches
        self._moments = moments
        self.active = True
        self.optimizers: IdentitySet[Optimizer] = IdentitySet()
        self.parameters: list[Tensor] = []
        self._graph_gradients: GraphGradients | None = None
        self._steps_of: Counter[Line] = Counter()
        self._due: list[tuple[list[Tensor], bool]] = []

    def install(self, patches: Patches) -> None:
        """Wrap what makes optimizers."""
        patches.wrap(Optimizer, "__init__", self._noticing)
        for name in ("gradcheck", "gradgradcheck"):
            patches.wrap(torch.autograd, name, self._checking)
        patches.wrap(eager_transforms, "grad_and_value_impl", self._transforming)
        patches.wrap(apis, "vmap_impl", self._transforming)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Take in optimizers that the program made before: the steps are theirs."""
        self.optimizers.update(optimizers)
        self.active = self.active and not self.optimizers

    def _noticing(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            if self.active and self._moments.steps:
                self._moments.restart(self._told)
            self.active, self.parameters, self._graph_gradients, self._due = False, [], None, []
            original(optimizer, *args, **kwargs)
            self.optimizers.add(optimizer)

        return __init__

    def _checking(self, original: Callable[..., bool]) -> Callable[..., bool]:
        def check(*args: Any, **kwargs: Any) -> bool:
            before, self.active = self.active, False  # the passes of gradcheck are no steps
            try:
                return original(*args, **kwargs)
            finally:
                self.active = before

        return check

    def _transforming(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def transform(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            if not torch.compiler.is_compiling():
                self.outside()
            return found

        return transform

    @property
    def param_groups(self) -> list[ParamGroup]:
        """A parameter group, as of an optimizer, with the tensors that the last pass reached."""
        return [{"params": self.parameters}]

    def about_to_pass(self, outputs: Sequence[Tensor | GradientEdge]) -> None:
        """A backward pass is about to start. Raises EnoughSteps if the last step asked for has been made."""
        if not self.active:
            return
        if self._graph_gradients is not None and self._steps_of[self._graph_gradients.line] > PROFILED_STEP:
            self._settle()
        self._moments.end_if_enough()
        if self._guards or self._watches or self._moments.steps <= PROFILED_STEP:
            self.parameters = [innermost(leaf) for leaf in leaves_of(outputs)]

    def passed(self) -> None:
        """``backward`` has filled ``.grad``."""
        if self.active:
            self._settle()
            self._step(self._guarded([p.grad for p in self.parameters if p.grad is not None]))

    def passed_grad(
        self,
        outputs: Sequence[Tensor | GradientEdge],
        gradients: Sequence[Tensor | None],
        create_graph: bool,
    ) -> None:
        """``torch.autograd.grad`` has returned ``gradients``.

        If they are part of a graph, the script may update weights with them, which makes a step; or a later pass goes
        through them, and they are a penalty in the loss of its step. The end of the next pass shows which; for a line
        that has made some steps it is assumed at the beginning of the next pass.
        """
        if not self.active:
            return
        self._settle()
        self._moments.manual_pass()
        found = [gradient for gradient in gradients if gradient is not None]
        losses = [_summed(output) for output in outputs if isinstance(output, Tensor)]
        finite = self._guarded(found)
        if create_graph and differentiated_further(outputs):
            self._graph_gradients = GraphGradients(losses, found, finite, here())
        else:
            self._due.append((losses, finite))
            self.outside()

    def outside(self) -> None:
        """Make the steps that are due, outside of ``torch.func`` transforms, in which nothing can be looked at."""
        while self._due and torch._C._functorch.maybe_current_level() is None:
            losses, finite = self._due.pop(0)
            self._moments.manual_losses(losses)
            self._step(finite)

    def close(self) -> None:
        """The program is over: no later pass goes through the last gradients."""
        if self.active:
            self._settle()
            self.outside()

    def _settle(self) -> None:
        """Count the pass before the last as a step, unless the last one went through its gradients."""
        last, self._graph_gradients = self._graph_gradients, None
        if last is None:
            return
        if last.used:
            self._steps_of.pop(last.line, None)
        else:
            self._steps_of[last.line] += 1
            self._due.append((last.losses, last.finite))
            self.outside()

    def _guarded(self, gradients: list[Tensor]) -> bool:
        """Whether ``gradients`` are finite, if bad steps are to change nothing; gradients that are not become zero."""
        finite = not self._guards or all_finite(gradients)
        if not finite:
            with torch.no_grad():
                for gradient in gradients:  # one by one, as vmap has no multi-tensor operations
                    gradient.zero_()
        return finite

    def _step(self, finite: bool) -> None:
        if self._moments.steps == 0:
            self._moments.write("warning", text=self._told)
        self._moments.after_manual_step(self, finite)


def _summed(loss: Tensor) -> Tensor:
    """A loss; the sum of the losses if ``vmap`` makes one pass for each of many."""
    inner = innermost(loss).detach()
    return inner.sum() if loss.numel() == 1 else inner
