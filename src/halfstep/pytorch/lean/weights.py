"""``bf16-lean``: trained weights are bf16 with a remainder, together fp32; the model computes as under ``bf16``.

fp32 parameters are split when a model is called for training for the first time, or when an optimizer steps them;
16-bit ones are widened before. Norms, modules that ``keep=`` names, parametrized and recurrent weights, and what
:func:`halfstep.pytorch.lean.choice.can_be_held` leaves stay fp32.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.weak import WeakIdKeyDictionary

from halfstep.errors import HalfstepError, Unsupported
from halfstep.pytorch.dtypes import KEPT
from halfstep.pytorch.lean import functions
from halfstep.pytorch.lean.choice import can_be_held
from halfstep.pytorch.lean.embedding import in_fp32
from halfstep.pytorch.lean.master import Masters
from halfstep.pytorch.lean.replicas import Replicas
from halfstep.pytorch.lean.states import Bf16States, Fp32States
from halfstep.pytorch.lean.stepping import Stepping
from halfstep.pytorch.lean.writes import Writes
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights.fp32_weights import Fp32Weights
from halfstep.pytorch.weights.widening import is_dtensor

#: modules whose weights stay fp32: autocast computes with them in fp32, or makes a weight of them first
_IN_FP32 = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.RNNBase, nn.RNNCellBase,
            ParametrizationList)  # fmt: skip

#: the old weight and spectral norms make a module's weight of these
_NORMED = ("weight_g", "weight_v", "weight_orig")


class LeanWeights:
    """Splits the weights of every model that is trained.

    Args:
        fp32: widens what the program holds in 16 bits, before it is split.
        look: called with a model before its weights are looked at; it marks what ``keep=`` names.
        stop: called with an error that ends the program.
        tell: called with what the user should know of what it costs.
        states: the format of the optimizers' state, ``fp32`` or ``bf16``.
    """

    def __init__(
        self,
        fp32: Fp32Weights,
        look: Callable[[nn.Module], None],
        stop: Callable[[HalfstepError], NoReturn],
        tell: Callable[[str], object],
        states: str,
    ) -> None:
        self.masters = Masters()
        self._stepping = Stepping(
            self.masters, self._step, tell, Bf16States() if states == "bf16" else Fp32States()
        )
        self._fp32 = fp32
        self._look = look
        self._stop = stop
        self._replicas = Replicas(self.masters, self._split_anew, self._keep, stop)
        self._held: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._kept = WeakIdKeyDictionary()
        self._asked: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def install(self, devices: Sequence[str], patches: Patches) -> None:
        """Look at modules, parameters and optimizers where they are used, written and made."""
        functions.install(self.masters, patches)
        Writes(self.masters).install(patches)
        self._stepping.install(patches)
        patches.on_undo(in_fp32(devices).remove)
        patches.wrap(nn.Module, "named_parameters", self._reading)
        patches.wrap(nn.Module, "register_parameter", self._register_parameter)
        self._replicas.install(patches)

    @property
    def cannot_be_undone(self) -> str:
        """Why not, as the rest of a sentence; empty where it can."""
        if self._replicas.any_made:
            return "DistributedDataParallel was given bf16 weights, and reduces nothing else; restart the program"
        return ""

    def refuse_shards(self) -> None:
        """The program shards its weights over processes: end it."""
        self._stop(
            Unsupported(
                "Precision bf16-lean keeps all weights in every process as yet, but the program shards them; use "
                "DistributedDataParallel or --precision bf16."
            )
        )

    def remove(self) -> None:
        """All weights are fp32 again, with all their numbers, and stay so."""
        self._stepping.active = False
        self.masters.flush()
        for master in self.masters:
            self.masters.release(master)

    def entered(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """A model is about to be called, with no other model's call around it; returns what to call it with."""
        made = self._fp32.entered(module, args, kwargs)
        self.masters.flush()
        if module not in self._held and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            self._split(module)
        return made

    def _split_anew(self, module: nn.Module) -> None:
        self._fp32.hold(module)
        self._split(module)

    def _keep(self, parameter: Tensor) -> None:
        self._kept[parameter] = True

    def _split(self, module: nn.Module) -> None:
        if any(is_dtensor(p) for p in module.parameters()):
            self.refuse_shards()
        self._replicas.check(module)
        self._look(module)
        self._keep_in(module)
        self.masters.hold(p for p in module.parameters() if p not in self._kept)
        self._held.add(module)

    def _keep_in(self, module: nn.Module) -> None:
        """Remember which parameters of ``module`` stay fp32."""
        for part in module.modules():
            if (
                isinstance(part, _IN_FP32)
                or KEPT in part.__dict__
                or not part._parameters.keys().isdisjoint(_NORMED)
            ):
                for parameter in (p for p in part._parameters.values() if p is not None):
                    self._kept[parameter] = True
                    master = self.masters.of(parameter)
                    if master is not None:
                        self.masters.release(master)

    def _step(self, parameters: Iterable[Tensor]) -> None:
        """An optimizer is about to step: in a region of a framework's no call of a model was outermost."""
        parameters = list(parameters)
        if any(is_dtensor(p) for p in parameters):
            self.refuse_shards()
        new = [p for p in parameters if self.masters.of(p) is None and can_be_held(p) and p not in self._kept]
        if new:
            for module in list(self._asked):
                self._keep_in(module)
            self.masters.hold(p for p in new if p not in self._kept)

    def _reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Whose parameters are asked for: an optimizer may be about to be given them."""

        def named_parameters(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                self._asked.add(module)
            return original(module, *args, **kwargs)

        return named_parameters

    def begin_pass(self) -> None:
        """A backward pass is about to start: gradients that are there are added up in fp32."""
        self.masters.flush()
        with torch.no_grad():
            for master in self.masters.are_mine(self.masters):
                parameter = master.parameter
                gradient = parameter.grad
                if gradient is not None and gradient.dtype is torch.bfloat16 and not master.is_wide:
                    parameter.grad = gradient.float()

    def _register_parameter(self, original: Callable[..., None]) -> Callable[..., None]:
        def register_parameter(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
            original(module, name, param)
            if param is not None and self._held:
                self._held.clear()  # a model that was called before may have a new weight

        return register_parameter
