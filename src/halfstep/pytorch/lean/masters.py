"""All parameters of this process that are bf16 with a remainder: held, shown, fp32 for a step, and let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.lean import registry
from halfstep.pytorch.lean.choice import can_be_held
from halfstep.pytorch.lean.data_setter import data_setter
from halfstep.pytorch.lean.master import Master
from halfstep.pytorch.lean.split import Parts, Remainders
from halfstep.pytorch.raw_data import raw_data, set_raw_data
from halfstep.pytorch.weights.widening import is_alone, plainly

#: dtypes that a parameter's new data may have, for it to stay bf16 with a remainder
_BECOME_FP32 = (torch.float32, *SIXTEEN_BIT)


class _Here(threading.local):
    stepping = False


class Masters:
    """The parameters in this process that are bf16 with a remainder.

    Args:
        form: how an fp32 number is stored.
    """

    def __init__(self, form: Remainders | None = None) -> None:
        self.form = form or Remainders()
        #: called with a master before its parameter becomes fp32 for good
        self.on_release: Callable[[Master], None] = lambda master: None
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

    def hold_again(self, parameter: Tensor) -> None:
        """Likewise one that was held before; a tensor that shares its memory is from now on one that was shown."""
        if isinstance(parameter, nn.Parameter) and can_be_held(parameter, shared=True):
            wide = raw_data(parameter)
            master = self._hold(parameter, wide)
            if not is_alone(wide):
                self.show_as(master, wide)

    def _hold(self, parameter: nn.Parameter, wide: Tensor) -> Master:
        with plainly():
            parts = self.form.parts(torch.empty_like(wide, dtype=torch.bfloat16))
            self.form.split([wide], [parts])
            master = Master(parameter, parts)
            if torch.__future__.get_swap_module_params_on_conversion():
                master.set_data = (
                    data_setter() or set_raw_data
                )  # PyTorch looks for the node when tensors are swapped
            gradient, parameter.grad = parameter.grad, None
            parameter.grad_dtype = None  # the gradients of several passes are added up in fp32
            master.put_down()
            parameter.grad = gradient
        registry.enter(parameter, master)
        return master

    def release(self, master: Master) -> Tensor:
        """Make the parameter fp32 again, for good; returns its numbers."""
        self.on_release(master)
        wide = self.wide(master)
        parameter = self._let_go(master)
        gradient, parameter.grad = parameter.grad, None
        master.let_go(wide)
        parameter.grad_dtype = torch.float32
        parameter.grad = None if gradient is None else gradient.to(torch.float32)
        return wide

    def wide(self, master: Master) -> Tensor:
        """The numbers of a parameter as they are now, in fp32: the tensor that was shown, or a new one."""
        if master.is_wide:
            return master.numbers
        master.follow()
        return self._joined(master) if master.shown is None else master.shown

    def _joined(self, master: Master) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            wide = master.parts.empty()
            self.form.join([master.parts], [wide])
        return wide

    def show(self, master: Master) -> Tensor:
        """The fp32 tensor that code outside is shown; what is written into it reaches the weight."""
        self.claim([master])
        wide = self.wide(master)
        if not master.is_wide and master.shown is None:
            self.show_as(master, wide)
        return wide.detach()

    def show_as(self, master: Master, wide: Tensor) -> None:
        """Note that code outside may hold ``wide``, which has the parameter's numbers."""
        master.shown = wide
        with self._lock:
            if master not in self._shown:
                self._shown.append(master)

    def claim(self, masters: Iterable[Master]) -> None:
        """Note that this thread uses them from now on, until another one does."""
        thread = threading.current_thread()
        for master in masters:
            master.thread = thread

    def are_mine(self, masters: Iterable[Master]) -> list[Master]:
        """Those of ``masters`` that this thread may use: they live, and no other living thread used them last."""
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
        """Make ``wide`` the parameter's numbers: fp32, of its shape."""
        with torch.no_grad():
            if not self.form.exact and wide is master.shown and bool(wide.eq(master.parts.weight).all()):
                return  # nothing was written: a mere look makes no difference to later roundings
            if master.shown is not None and wide is not master.shown:
                master.shown.copy_(wide)
            self.form.split([_laid_out_as(master.parts, wide)], [master.parts])
            self._settle([master])
        master.agrees()

    def _settle(self, masters: Iterable[Master]) -> None:
        """Let tensors that are shown have the numbers that rounding has left of the weights."""
        shown = [] if self.form.exact else [m for m in masters if m.shown is not None]
        self.form.join([m.parts for m in shown], [m.shown for m in shown if m.shown is not None])

    def replace(self, master: Master, data: Tensor) -> None:
        """``parameter.data = data``, of any dtype, shape and device; with float64 or sparse data it is held no longer.

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
            self.show_as(master, wide)

    def _let_go(self, master: Master) -> nn.Parameter:
        parameter = master.parameter
        registry.leave(parameter)
        with self._lock:
            self._shown[:] = [other for other in self._shown if other is not master]
        parameter.grad_dtype = None
        return parameter

    def flush(self) -> None:
        """Take what was written into shown tensors into the weights, and drop tensors that nobody holds any more."""
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
                self.show_as(master, master.shown)
            else:
                master.shown = None

    def widen(
        self, masters: Iterable[Master], memory: Callable[[Parts], Tensor] = Parts.empty
    ) -> list[Master]:
        """Make their parameters fp32, with all their numbers, until :meth:`narrow`: 4 bytes per number.

        Args:
            memory: makes an fp32 tensor like some parts; its numbers are not set.

        Returns:
            Those that were bf16 before.
        """
        with torch.inference_mode(False), torch.no_grad():
            narrow = [master for master in masters if not master.is_wide]
            for master in narrow:
                master.follow()
            hidden = [master for master in narrow if master.shown is None]
            wide = [memory(master.parts) for master in hidden]
            self.form.join([master.parts for master in hidden], wide)
            for master, numbers in zip(hidden, wide, strict=True):
                master.put_up(numbers)
            for master in narrow:
                if master.shown is not None:
                    master.put_up(master.shown)
        return narrow

    def narrow(self, masters: Iterable[Master]) -> None:
        """Make the parameters bf16 again; what was written into them meanwhile is kept in full."""
        with torch.inference_mode(False), torch.no_grad():
            wide = [master for master in masters if master.is_wide]
            for master in wide:
                if (other := master.put_instead()) is not None:
                    master.put_down()
                    self.replace(master, other)
            wide = [master for master in wide if master.is_wide]
            data = [_laid_out_as(master.parts, master.numbers) for master in wide]
            self.form.split(data, [master.parts for master in wide])
            self._settle(wide)
            for master in wide:
                master.put_down()

    def open(self, masters: Iterable[Master]) -> None:
        """Make their parameters fp32 until :meth:`flush`: an optimizer is being made, whose state is to be fp32."""
        masters = list(masters)
        self.claim(masters)
        made = self.widen(masters)
        with self._lock:
            self._open.extend(made)


def _laid_out_as(parts: Parts, wide: Tensor) -> Tensor:
    """``wide`` in fp32 with the strides of ``parts``."""
    if wide.dtype is torch.float32 and wide.stride() == parts.weight.stride():
        return wide
    return parts.empty().copy_(wide)
