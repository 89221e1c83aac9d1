"""Around an optimizer's step its parameters and their gradients are fp32; afterwards the weights are split again.

So every optimizer computes as it does for fp32 weights, and its state is fp32. An optimizer that treats each parameter
by itself is called for some parameters at a time, so that few of them are fp32 at once. Every other optimizer, and
every one with a closure or with hooks, is called once, with all its parameters in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

from halfstep.passed_on import Keywords, StateDict
from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.memory import Memories, Memory
from halfstep.pytorch.lean.pieces import Cut, can_be_cut
from halfstep.pytorch.lean.states import Fp32States
from halfstep.pytorch.lean.widened import Widened
from halfstep.pytorch.loss_scaling.step_wrappers import classes_with_a_wrapped_step
from halfstep.pytorch.patches import Patches, itself_not_traced, outside_compiler
from halfstep.takeover.identity import IdentitySet

#: optimizers of torch.optim that treat each parameter by itself; tests hold each to one call for all its parameters
PER_PARAMETER = frozenset(
    cls
    for name in ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam",
                 "RMSprop", "Rprop", "SGD", "SparseAdam")
    if (cls := getattr(torch.optim, name, None)) is not None
)  # fmt: skip

#: the share of an optimizer's numbers that is fp32 at once; its fp32 weights and gradients take 5 % of the weights
SHARE = 1 / 40

#: a weight that is this many times larger than what is to be fp32 at once is stepped in pieces, where it can be
CUT = 4

#: numbers that are fp32 at once in any case: 8 MB of weights and gradients
SMALLEST = 1 << 20


class Stepping:
    """What happens around every ``optimizer.step()``.

    Args:
        hold: called with parameters that are about to be stepped; splits those that are to be split.
        tell: called with a sentence, without its full stop, where a step needs much more memory than others do.
        states: stores an optimizer's state between steps.

    Attributes:
        active: whether steps are made in fp32; otherwise the wrapped step, which classes may remember, does nothing
            else.
    """

    def __init__(
        self,
        masters: Masters,
        hold: Callable[[Iterable[Tensor]], object] | None = None,
        tell: Callable[[str], object] = lambda text: None,
        states: Fp32States | None = None,
    ) -> None:
        self._masters = masters
        self._hold = hold or masters.hold
        self._tell = tell
        self._states = states or Fp32States()
        self._told: set[str] = set()
        #: those whose state may be narrow
        self._stepped: IdentitySet[Optimizer] = IdentitySet()
        self.active = True

    def install(self, patches: Patches) -> None:
        """Wrap the step of every optimizer class, of those that exist and of those made from now on."""
        self._masters.on_release = self._widen_state
        patches.wrap(Optimizer, "add_param_group", self._add_param_group)
        patches.wrap(Optimizer, "load_state_dict", self._load_state_dict)
        if not self._states.saved_narrow:
            patches.wrap(Optimizer, "state_dict", self._state_dict)
        original = Optimizer.profile_hook_step

        @functools.wraps(original)
        def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
            return self._around(original(func))

        patches.set(Optimizer, "profile_hook_step", staticmethod(profile_hook_step))
        for cls in classes_with_a_wrapped_step():
            patches.set(cls, "step", self._around(cls.step))

    def _add_param_group(self, original: Callable[..., None]) -> Callable[..., None]:
        def add_param_group(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self._masters.open(self._held(optimizer.param_groups[-1]["params"]))

        return add_param_group

    def _load_state_dict(self, original: Callable[..., None]) -> Callable[..., None]:
        """Make parameters fp32 while state is loaded, which takes the dtype of its parameter."""

        def load_state_dict(optimizer: Optimizer, state_dict: StateDict) -> None:
            self._masters.open(self._held(p for group in optimizer.param_groups for p in group["params"]))
            original(optimizer, state_dict)

        return load_state_dict

    def _state_dict(self, original: Callable[..., StateDict]) -> Callable[..., StateDict]:
        """Give out a state dict whose state is fp32; the optimizer's own stays narrow."""

        def state_dict(optimizer: Optimizer, *args: Any, **kwargs: Any) -> StateDict:
            found = original(optimizer, *args, **kwargs)
            of_each = found["state"].items()
            state = {n: {k: self._states.widened(v) for k, v in one.items()} for n, one in of_each}
            return {**found, "state": state}

        return state_dict

    def _widen_state(self, master: Master) -> None:
        """Make all state of a parameter fp32, which is about to be fp32 for good."""
        for optimizer in self._stepped:
            self._states.widen_all(optimizer, [master])

    def _held(self, parameters: Iterable[Tensor]) -> list[Master]:
        return [master for p in parameters if (master := self._masters.of(p)) is not None]

    def _around(self, stepping: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stepping)
        def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self.active:
                return stepping(optimizer, *args, **kwargs)
            compiled = get_eval_frame_callback() is not None
            return outside_compiler(self._step, stepping, optimizer, args, kwargs, compiled)

        itself_not_traced(step)
        return step

    def _step(
        self,
        stepping: Callable[..., Any],
        optimizer: Optimizer,
        args: tuple[Any, ...],
        kwargs: Keywords,
        compiled: bool,
    ) -> Any:
        self._stepped.add(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._masters.claim(self._held(parameters))
        self._masters.flush()
        closure = kwargs["closure"] if "closure" in kwargs else args[0] if args else None
        self._hold(p for p in parameters if callable(closure) or p.grad is not None)
        masters = self._held(parameters)
        if not self._masters.form.exact:
            self._resume(optimizer, masters)
        given = any(value is not None for value in (*args, *kwargs.values()))
        why = _at_once(optimizer, given, compiled)
        if not why:
            return self._by_groups(stepping, optimizer, masters)
        self._tell_cost(type(optimizer).__name__, why, masters)
        wide = Widened(self._masters, masters)
        if callable(closure):
            instead = wide.around(closure)
            args, kwargs = ((), kwargs | {"closure": instead}) if not args else ((instead, *args[1:]), kwargs)
        wide.begin()
        self._states.widen_all(optimizer, masters)
        try:
            return stepping(optimizer, *args, **kwargs)
        finally:
            self._states.narrow_all(optimizer, masters)
            wide.end()

    def _resume(self, optimizer: Optimizer, masters: list[Master]) -> None:
        """Tell the form how often the weights were stepped, where state says it that the optimizer has loaded."""
        for master in masters:
            steps = optimizer.state.get(master.parameter, {}).get("step")
            if steps is not None:
                self._masters.form.resume(master.parts, steps)

    def _tell_cost(self, name: str, why: str, masters: list[Master]) -> None:
        """Say once how much memory it costs that all weights are fp32 at once, if a group of them would cost less."""
        if name in self._told or len(list(_bounded(masters, _most(masters)))) < 2:
            return
        self._told.add(name)
        narrow = [m for m in masters if (g := m.parameter.grad) is not None and g.dtype is torch.bfloat16]
        more = 4 * sum(m.parameter.numel() for m in (*masters, *narrow))
        self._tell(
            f"{name} is called once for all weights, as {why}: for the time of its step these and their gradients are "
            f"fp32, too, which takes {more / 2**20:.0f} MiB more"
        )

    def _by_groups(self, stepping: Callable[..., Any], optimizer: Optimizer, masters: list[Master]) -> None:
        stepped = [m for m in masters if m.parameter.grad is not None]
        most = _most(stepped)
        cut = [m for m in stepped if m.size > CUT * most and can_be_cut(optimizer, m)]
        of_all = {id(master.parameter): -1 for master in cut}
        groups = list(_bounded([m for m in stepped if id(m.parameter) not in of_all], most))
        in_a_group = of_all | {id(master.parameter): i for i, group in enumerate(groups) for master in group}
        weights, gradients = Memory(), Memory()
        before = [group["params"] for group in optimizer.param_groups]
        try:
            for master in cut:
                self._step_cut(stepping, optimizer, master, most, before, (weights, gradients))
            for i, some in enumerate(groups or [[]]):
                weights.start(master.parts for master in some)
                gradients.start(master.parts for master in some)
                for group, every in zip(optimizer.param_groups, before, strict=True):
                    group["params"] = [p for p in every if in_a_group.get(id(p), 0) == i]
                wide = Widened(self._masters, some, weights.like, gradients.like)
                wide.begin()
                self._states.widen_all(optimizer, some)
                try:
                    stepping(optimizer)
                finally:
                    self._states.narrow_all(optimizer, some)
                    wide.end()
        finally:
            for group, every in zip(optimizer.param_groups, before, strict=True):
                group["params"] = every

    def _step_cut(
        self,
        stepping: Callable[..., Any],
        optimizer: Optimizer,
        master: Master,
        most: int,
        before: list[list[Tensor]],
        memory: Memories,
    ) -> None:
        def call(piece: Tensor) -> None:
            for group, every in zip(optimizer.param_groups, before, strict=True):
                group["params"] = [piece] if any(p is master.parameter for p in every) else []
            outer, self._masters.stepping = self._masters.stepping, True
            try:
                stepping(optimizer)
            finally:
                self._masters.stepping = outer

        Cut(optimizer, master, self._masters, self._states).step(most, call, memory)
        self._masters.form.advance([master.parts])
        master.agrees()


def _most(masters: list[Master]) -> int:
    """How many numbers may be fp32 at once; only a larger weight that cannot be cut takes more."""
    return max(int(sum(master.size for master in masters) * SHARE), SMALLEST)


def _bounded(masters: list[Master], most: int) -> Iterator[list[Master]]:
    """Groups of masters in their order, each of at most ``most`` numbers, or as many as the largest master has."""
    sizes = [master.size for master in masters]
    most = max(max(sizes, default=0), most)
    group: list[Master] = []
    held = 0
    for master, size in zip(masters, sizes, strict=True):
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(master)
        held += size
    if group:
        yield group


def _at_once(optimizer: Optimizer, given: bool, compiled: bool) -> str:
    """Why the step is to be made for all weights at once, as part of a sentence; empty where there is no reason."""
    if type(optimizer) not in PER_PARAMETER:
        return "it is not known to treat each by itself"
    if compiled:  # a compiler would compile the step for each group of parameters
        return "its step is compiled"
    if given:
        return "its step is given a closure"
    return "the program has hooks around its step" if _has_hooks(optimizer) else ""


def _has_hooks(optimizer: Optimizer) -> bool:
    """Whether the program has hooks around the step, which may look at all parameters."""
    hooks = (
        optimizers._global_optimizer_pre_hooks,
        optimizers._global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
    )
    return any(hooks)
