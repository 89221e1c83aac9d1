"""Finds the operation that first made an infinity or a NaN, as opposed to those that only pass one on.

A dispatch mode sees every operation of the forward pass, the backward pass and the optimizer. One pass over each result
(``aminmax``) tells whether it is finite. An operation whose result is not finite, although its inputs were, is an
origin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from halfstep.precisions.formats import get_scalar
from halfstep.pytorch.dtypes import SIXTEEN_BIT, format_name
from halfstep.pytorch.loss_scaling.engine import inside_backward, tracing
from halfstep.pytorch.unseen import unseen_look
from halfstep.pytorch.watching.domain import outside_domain
from halfstep.pytorch.watching.modules import Modules
from halfstep.pytorch.watching.script_operations import ScriptOperations
from halfstep.pytorch.watching.source import Line, described, user_line
from halfstep.pytorch.watching.sums import Sums
from halfstep.pytorch.watching.tensors import (
    address,
    deliberate,
    exactly,
    floating,
    input_figures,
    is_finite,
    nan_and_infinity,
    result_figures,
    summable,
)
from halfstep.takeover.looks import Looks

Write = Callable[..., None]
_NAME, TRIES = "watching: operations", 16
#: how many origins are looked at closely in one step, and in total
_A_STEP, _IN_ALL = 8, 200
#: operations that return uninitialised memory, and halfstep's own unscaling
_IGNORED = ("empty", "new_empty", "resize", "set_", "_local_scalar", "_amp_", "_pin_memory", "profiler")
#: emulated operation -> PyTorch's name for what it computes; rounding of an operand is not among them
_EMULATED = {
    "product": "matmul",
    "convolution": "convolution",
    "convolution_backward": "convolution_backward",
}
#: operations in which a constant keeps a divisor or a logarithm away from zero
_GUARDING = ("add", "sub", "clamp", "clamp_min", "maximum")


@dataclass(frozen=True)
class Plan:
    """How to look at the result of an operation."""

    name: str  #: the operation's name without its overload, ``_to_copy``
    looks: bool  #: whether it makes new numbers; views do not
    writes: bool  #: it writes into its first argument
    #: it is an emulated product, which runs inside its own autograd function, without grad mode
    emulated: bool = False


@functools.cache
def plan(operation: Any) -> Plan:
    """The plan for an operator overload, from its schema."""
    name = operation._schema.name.split("::")[-1]
    returns = operation._schema.returns
    arguments = operation._schema.arguments
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in arguments[:1])
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    ignored = name.startswith(_IGNORED) or operation.namespace not in ("aten", "torchvision")
    if operation.namespace == "halfstep":
        ignored, name = name not in _EMULATED, _EMULATED.get(name, f"halfstep.{name}")
    emulated = operation.namespace == "halfstep"
    return Plan(name.rstrip("_") if writes else name, not (views or ignored), writes, emulated)


@dataclass(frozen=True)
class Place:
    """Where an operation was called: the module's path, the line of the program, the operation's name."""

    module: str
    line: Line | None
    operation: str


@dataclass(frozen=True)
class _Called:
    """An operation that is running: its plan, whether it belongs to a backward pass, and where it was called."""

    plan: Plan
    backward: bool
    place: Place | None


class Operations(TorchDispatchMode):
    """The dispatch mode that looks at all operations.

    Args:
        modules: knows which module is running.
        write: writes an event: ``write(what, **fields)``.
        in_step: tells whether an optimizer's arithmetic is running.
        scale: gives the loss scale in force.
        rounded: called with an emulated product's operand: module, tensor, format, axis, and whether it is a gradient.
    """

    #: without this, attention with the script's own function, and other operations of higher order, raise
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """False keeps the program's compiled frames compiled."""
        return True

    def __init__(
        self,
        modules: Modules,
        write: Write,
        in_step: Callable[[], bool],
        scale: Callable[[], float],
        rounded: Callable[[str, Tensor, str, int, bool], object],
        looks: Looks,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._looks = looks
        self._modules, self._write, self._in_step, self._scale = modules, write, in_step, scale
        self._rounded = rounded
        self._places: dict[int, Place] = {}
        self._older: dict[int, Place] = {}
        self._bad: set[int] = set()
        self._stays_bad = (
            WeakTensorKeyDictionary()
        )  # tensors that are written in place and kept: optimizer state
        self._said: set[Any] = set()
        self._origins = self._in_all = self._passed = 0
        self.clean = True
        self.in_pass = False
        self.sums = Sums(write)
        self.of_script = ScriptOperations()

    def let_go(self, tensor: Tensor) -> None:
        """Drop the weak references to ``tensor``."""
        self._stays_bad.pop(tensor, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if tracing() or not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        call = self._about_to(func, args)
        with self.of_script.as_called(func):
            result = func(*args, **kwargs)
        if call is not None and call.plan.looks:
            self._done(call, func, args, kwargs, result)
        return result

    @unseen_look(_NAME, TRIES)
    def _about_to(self, func: Any, args: Any) -> _Called:
        """An operation is about to run: note where it is called."""
        todo = plan(func)
        if todo.name == "halfstep.round":
            self._operand(*args)
            return _Called(todo, False, None)
        backward = self._modules.running is None if inside_backward() else self.in_pass
        return _Called(todo, backward, None if backward else self._remember(todo))

    @unseen_look(_NAME, TRIES)
    def _done(self, call: _Called, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        # Not no_grad: halfstep empties autocast's cache there, and autocast may be filling it right now.
        with torch._C._AutoDispatchBelowAutograd():
            self._look(call.plan, func, args, kwargs, result, call.backward, call.place)

    def _operand(self, x: Tensor, format: str, axis: int, gradient: bool = False) -> None:
        """A product's operand is about to be rounded; the backward pass rounds operands of the forward pass again."""
        if inside_backward() and not gradient:
            return
        place = self._of_node()[0] if gradient else None
        running = self._modules.running
        module = place.module if place else running.path if running and not gradient else ""
        self._rounded(module, x, format, axis, gradient)

    def _remember(self, todo: Plan) -> Place | None:
        """Note where it is called: by its sequence number the backward pass will find this operation."""
        if self._in_step() or not (torch.is_grad_enabled() or todo.emulated):
            return None
        place = self._here(todo)
        # Operations that make no node have the number of an earlier one: the first one with a number made its node.
        self._places.setdefault(torch._C._autograd._get_sequence_nr() - 1, place)
        return place

    def _here(self, todo: Plan) -> Place:
        running = self._modules.running
        return Place(running.path if running else "", user_line(6), todo.name)

    def _of_node(self) -> tuple[Place | None, str]:
        """The forward operation whose gradient is being computed, and the name of its node."""
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return None, ""
        number = node._sequence_nr()
        return self._places.get(number) or self._older.get(number), node.name()

    def _look(
        self, todo: Plan, func: Any, args: Any, kwargs: Any, result: Any, backward: bool, place: Place | None
    ) -> None:
        outputs = list(floating(args[0] if todo.writes else result))
        if not outputs:
            return
        sixteen = outputs[0].dtype in SIXTEEN_BIT
        if sixteen and not self._in_step():
            self._constants(todo, args, outputs[0], backward, place)
            where = functools.partial(self._where, todo, backward, place)
            self.sums.look(todo.name, func, args, kwargs, outputs[0], where)
        for output in outputs:
            if not is_finite(output):
                self._not_finite(todo, func, args, kwargs, output, backward, place)
                break
            if todo.writes and self._stays_bad:
                self._stays_bad.pop(output, None)

    def _constants(self, todo: Plan, args: Any, output: Tensor, backward: bool, place: Place | None) -> None:
        """Tell of a constant that is to keep a divisor away from zero, and is itself zero in this format."""
        if todo.name not in _GUARDING:
            return
        flushed = float(get_scalar(format_name(output.dtype)).flush_threshold)
        for value in args:
            if type(value) is float and 0 < abs(value) <= flushed:
                where = self._where(todo, backward, place)
                key = ("epsilon", where["module"], where.get("source"), value)
                if key not in self._said:
                    self._said.add(key)
                    self._write("epsilon", value=value, dtype=format_name(output.dtype), **where)

    def _not_finite(
        self,
        todo: Plan,
        func: Any,
        args: Any,
        kwargs: Any,
        output: Tensor,
        backward: bool,
        place: Place | None,
    ) -> None:
        given = list(floating([*(args[1:] if todo.writes else args), *kwargs.values()]))
        known = todo.writes and (address(output) in self._bad or output in self._stays_bad)
        self._bad.add(address(output))
        if todo.writes:
            self._stays_bad[output] = True
        if deliberate(args) or deliberate(kwargs.values()) or known:
            return
        nan_in, inf_in = nan_and_infinity(given)
        makes_nan = not nan_in and bool(torch.isnan(summable(output)).any())
        if nan_in or (inf_in and not makes_nan):
            self._passes_on(todo, backward, place)
            return
        if self._origins >= _A_STEP or self._in_all >= _IN_ALL:
            return
        self._origins += 1
        self._in_all += 1
        self.clean = False
        self._write(
            "origin",
            from_infinity=inf_in,
            scale=self._scale(),
            **self._where(todo, backward, place),
            **result_figures(output),
            inputs=[input_figures(tensor) for tensor in given[:4]],
            exact=None if todo.writes else exactly(func, args, kwargs, output.dtype),
            domain=outside_domain(todo.name, args),
        )

    def _passes_on(self, todo: Plan, backward: bool, place: Place | None) -> None:
        """The inputs are not finite, and no operation was seen to make them: they came with the data or the weights."""
        if self._origins == 0 and self._passed == 0 and self.clean:
            self._write("arrived", **self._where(todo, backward, place))
        self._passed += 1

    def _where(self, todo: Plan, backward: bool, place: Place | None) -> dict[str, object]:
        """Module, operation, direction and line, as fields of an event."""
        node = ""
        if backward:
            place, node = self._of_node() if inside_backward() else (None, "the scaled loss")
        elif place is None:
            place = self._here(todo)
        direction = "step" if self._in_step() else "backward" if backward else "forward"
        module = place.module if place else ""
        return {
            "operation": todo.name,
            "module": module,
            "type": self._modules.kinds.get(module, module),
            "direction": direction,
            "of": place.operation if backward and place else node,
            **described(place.line if place else None),
        }

    def stepped(self, sampled: bool) -> None:
        """A step is over; ``sampled``: whether the sums of the next step are looked at."""
        self._places, self._older = {}, self._places
        self._bad.clear()
        self._origins = self._passed = 0
        self.sums.active = sampled
