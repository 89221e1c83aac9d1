"""A parameter in bf16 whose fp32 number is never lost: the remainder lies beside it.

The parameter object stays the program's own. What a model computes with is the bf16 number. Who looks at the parameter
from outside (``.data``, ``detach()``, a state dict, a copy) is shown an fp32 tensor, which is the truth as long as
anybody holds it: what is written into it reaches the weight before that is used again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.lean import registry
from halfstep.pytorch.lean.choice import can_be_held
from halfstep.pytorch.lean.split import Parts, join, split
from halfstep.pytorch.raw_data import raw_data, set_raw_data
from halfstep.pytorch.weights.widening import is_alone

#: what a parameter's data may become without its being float64
_BECOME_FP32 = (torch.float32, *SIXTEEN_BIT)


class Master:
    """The fp32 numbers of one parameter.

    Attributes:
        parts: the bf16 tensor that the parameter looks at, and the remainders.
        shown: fp32, where somebody outside may hold it; else None.
        thread: the one that used it last; others put nothing in its place.
        set_data: gives the parameter other data, of another dtype; what it leaves of the parameter is its own affair.
    """

    __slots__ = ("__weakref__", "_of", "_version", "_wide", "parts", "set_data", "shown", "thread")

    def __init__(self, parameter: nn.Parameter, parts: Parts) -> None:
        self._of = weakref.ref(parameter)
        self.parts = parts
        self.shown: Tensor | None = None
        self.set_data = set_raw_data
        self.thread = threading.current_thread()
        self._wide: Tensor | None = None
        self._version = 0

    @property
    def parameter(self) -> nn.Parameter:
        parameter = self._of()
        assert parameter is not None, "a master outlived its parameter"
        return parameter

    @property
    def remainder(self) -> Tensor:
        return self.parts.remainder

    @property
    def is_wide(self) -> bool:
        """Whether the parameter is fp32 for the time of an optimizer's step."""
        return self._wide is not None

    def put_down(self) -> None:
        """The parameter looks at its bf16 numbers, which agree with the remainders."""
        self._wide = None
        self.set_data(self.parameter, self.parts.weight)
        self.agrees()

    def agrees(self) -> None:
        """The remainders belong to the bf16 numbers as they are now."""
        self._version = self.parameter._version

    def put_up(self, wide: Tensor) -> None:
        """The parameter looks at ``wide``."""
        self._wide = wide
        self.set_data(self.parameter, wide)

    def put_instead(self) -> Tensor | None:
        """What somebody has put in the place of the fp32 tensor that was put up, as by ``parameter.data = ...``."""
        data = raw_data(self.parameter)
        return None if self._wide is not None and _are_one(data, self._wide) else data

    def follow(self) -> None:
        """Where a write into the bf16 numbers was counted that was not ours, they are the truth: no remainder."""
        parameter = self.parameter
        if parameter._version == self._version:
            return
        self._version = parameter._version
        self.parts.remainder.zero_()
        if self.shown is not None:
            self.shown.copy_(self.parts.weight)

    @property
    def is_held_outside(self) -> bool:
        """Whether somebody holds what was shown, or a view of it."""
        return self.shown is not None and not is_alone(self.shown)


class _Here(threading.local):
    stepping = False


class Masters:
    """The parameters in this process that are bf16 with a remainder."""

    def __init__(self) -> None:
        self._here = _Here()
        self._lock = threading.RLock()
        self._shown: list[Master] = []
        self._open: list[Master] = []

    @property
    def stepping(self) -> bool:
        """Whether an optimizer's arithmetic is under way in this thread."""
        return self._here.stepping

    @stepping.setter
    def stepping(self, stepping: bool) -> None:
        self._here.stepping = stepping

    def __iter__(self) -> Iterator[Master]:
        return (held for held in registry.every() if isinstance(held, Master))

    def of(self, tensor: Tensor) -> Master | None:
        """The master of a parameter; None of any other tensor."""
        held = registry.held(tensor)
        return held if isinstance(held, Master) else None

    def hold(self, parameters: Iterable[Tensor]) -> None:
        """Make those fp32 parameters bf16 with a remainder that can be: :func:`can_be_held`."""
        for parameter in parameters:
            if isinstance(parameter, nn.Parameter) and self.of(parameter) is None and can_be_held(parameter):
                self._hold(parameter, raw_data(parameter))

    def _hold(self, parameter: nn.Parameter, wide: Tensor) -> Master:
        with torch.inference_mode(False), torch.no_grad():
            parts = Parts.like(torch.empty_like(wide, dtype=torch.bfloat16))
            split([wide], [parts])
            master = Master(parameter, parts)
            gradient, parameter.grad = parameter.grad, None
            parameter.grad_dtype = None  # several passes are added up in fp32
            master.put_down()
            parameter.grad = gradient
        registry.enter(parameter, master)
        return master

    def release(self, master: Master) -> Tensor:
        """The parameter is fp32 again, with all its numbers, and stays so; returns them."""
        wide = self.wide(master)
        parameter = self._let_go(master)
        gradient, parameter.grad = parameter.grad, None
        set_raw_data(parameter, wide)
        parameter.grad_dtype = torch.float32
        parameter.grad = None if gradient is None else gradient.to(torch.float32)
        return wide

    def wide(self, master: Master) -> Tensor:
        """Its numbers now, in fp32: the tensor that was shown, or a new one."""
        if master.is_wide:
            return raw_data(master.parameter)
        master.follow()
        return _joined(master) if master.shown is None else master.shown

    def show(self, master: Master) -> Tensor:
        """What a tensor with the parameter's numbers is from outside: fp32; written into, it writes the weight."""
        self.claim([master])
        wide = self.wide(master)
        if not master.is_wide and master.shown is None:
            self._now_shows(master, wide)
        return wide.detach()

    def _now_shows(self, master: Master, wide: Tensor) -> None:
        master.shown = wide
        with self._lock:
            if master not in self._shown:
                self._shown.append(master)

    def claim(self, masters: Iterable[Master]) -> None:
        """This thread uses them from now on, until another one does."""
        thread = threading.current_thread()
        for master in masters:
            master.thread = thread

    def are_mine(self, masters: Iterable[Master]) -> list[Master]:
        """Those of them whose parameters live and that no other living thread used last: it may compute with them."""
        me = threading.current_thread()
        living = (master for master in masters if master._of() is not None)
        return [m for m in living if m.thread is me or not m.thread.is_alive()]

    def _take_mine(self, masters: list[Master]) -> list[Master]:
        """Take those out of ``masters`` that are this thread's, and forget those whose parameters are gone."""
        with self._lock:
            mine = self.are_mine(masters)
            out = set(map(id, mine))
            masters[:] = [m for m in masters if id(m) not in out and m._of() is not None]
        return mine

    def take(self, master: Master, wide: Tensor) -> None:
        """From now on these are the parameter's numbers: fp32, of its shape."""
        with torch.no_grad():
            if master.shown is not None and wide is not master.shown:
                master.shown.copy_(wide)
            split([_laid_out_as(master.parts, wide)], [master.parts])
        master.agrees()

    def replace(self, master: Master, data: Tensor) -> None:
        """``parameter.data = data``, of any dtype, shape and device; float64 and what is not dense goes its own way.

        From now on the parameter follows ``data``; what was shown before keeps its numbers.
        """
        weight, parameter = master.parts.weight, master.parameter
        if data.dtype not in _BECOME_FP32 or data.layout is not torch.strided or data.is_meta:
            set_raw_data(self._let_go(master), data)
            return
        wide = data.detach().to(torch.float32)
        if (wide.shape, wide.device) != (weight.shape, weight.device):
            set_raw_data(self._let_go(master), wide)
            master = self._hold(parameter, wide)
        else:
            master.shown = None
            self.take(master, wide)
        if data.dtype is torch.float32:
            self._now_shows(master, wide)

    def _let_go(self, master: Master) -> nn.Parameter:
        parameter = master.parameter
        registry.leave(parameter)
        with self._lock:
            self._shown[:] = [other for other in self._shown if other is not master]
        parameter.grad_dtype = None
        return parameter

    def flush(self) -> None:
        """What was written into tensors that were shown reaches the weights; those that nobody holds are let go."""
        if self._open:
            self.narrow(self._take_mine(self._open))
        if not self._shown:
            return
        for master in self._take_mine(self._shown):
            if master.shown is None:
                continue
            if not master.is_wide:
                master.follow()
                self.take(master, master.shown)
            if master.is_wide or master.is_held_outside:
                self._now_shows(master, master.shown)
            else:
                master.shown = None

    def widen(
        self, masters: Iterable[Master], memory: Callable[[Parts], Tensor] = Parts.empty
    ) -> list[Master]:
        """Their parameters are fp32, with all their numbers, until :meth:`narrow`: 4 bytes per number.

        Args:
            masters: any.
            memory: gives an fp32 tensor like some parts, whose numbers are not set.

        Returns:
            those that were not so already.
        """
        with torch.inference_mode(False), torch.no_grad():
            narrow = [master for master in masters if not master.is_wide]
            for master in narrow:
                master.follow()
            hidden = [master for master in narrow if master.shown is None]
            wide = [memory(master.parts) for master in hidden]
            join([master.parts for master in hidden], wide)
            for master, numbers in zip(hidden, wide, strict=True):
                master.put_up(numbers)
            for master in narrow:
                if master.shown is not None:
                    master.put_up(master.shown)
        return narrow

    def narrow(self, masters: Iterable[Master]) -> None:
        """The parameters are bf16 again; what was written into them meanwhile is kept in full."""
        with torch.inference_mode(False), torch.no_grad():
            wide = [master for master in masters if master.is_wide]
            for master in wide:
                if (other := master.put_instead()) is not None:
                    master.put_down()
                    self.replace(master, other)
            wide = [master for master in wide if master.is_wide]
            data = [_laid_out_as(master.parts, raw_data(master.parameter)) for master in wide]
            split(data, [master.parts for master in wide])
            for master in wide:
                master.put_down()

    def open(self, masters: Iterable[Master]) -> None:
        """Their parameters are fp32 until :meth:`flush`: an optimizer is being made, whose state is to be like them."""
        masters = list(masters)
        self.claim(masters)
        made = self.widen(masters)
        with self._lock:
            self._open.extend(made)


def _are_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return (a.dtype, a.data_ptr(), a.shape, a.stride()) == (b.dtype, b.data_ptr(), b.shape, b.stride())


def _joined(master: Master) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        wide = master.parts.empty()
        join([master.parts], [wide])
    return wide


def _laid_out_as(parts: Parts, wide: Tensor) -> Tensor:
    """``wide`` in fp32 with the strides of ``parts``."""
    if wide.dtype is torch.float32 and wide.stride() == parts.weight.stride():
        return wide
    return parts.empty().copy_(wide)
