"""``bf16-lean``: trained weights are bf16 with a remainder, together fp32; the model computes as under ``bf16``.

``bf16-sr``: likewise, without the remainder: what an optimizer makes of a weight is rounded stochastically.

fp32 parameters are split when a model is called for training for the first time, or when an optimizer steps them;
16-bit ones are widened before. Norms, modules that ``keep=`` names, parametrized and recurrent weights, and what
:func:`halfstep.pytorch.lean.choice.can_be_held` leaves stay fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.weak import WeakIdKeyDictionary

from halfstep.errors import HalfstepError, Unsupported
from halfstep.precisions.recipes import Recipe
from halfstep.pytorch.dtypes import KEPT
from halfstep.pytorch.lean import functions
from halfstep.pytorch.lean.choice import can_be_held, has_rows
from halfstep.pytorch.lean.eight_bit import EightBitStates
from halfstep.pytorch.lean.embedding import in_fp32
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.replicas import Replicas
from halfstep.pytorch.lean.rounded import StochasticRounding
from halfstep.pytorch.lean.shards import Shards
from halfstep.pytorch.lean.split import Remainders
from halfstep.pytorch.lean.states import Bf16States, Fp32States
from halfstep.pytorch.lean.stepping import Stepping
from halfstep.pytorch.lean.writes import Writes
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights.fp32_weights import Fp32Weights
from halfstep.pytorch.weights.widening import is_dtensor
from halfstep.takeover.identity import IdentitySet
from halfstep.takeover.patches import descendants

#: modules whose weights stay fp32: autocast computes with these in fp32, or another weight is computed from them first
_IN_FP32 = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.RNNBase, nn.RNNCellBase,
            ParametrizationList)  # fmt: skip

#: the parameters from which the old weight norm and spectral norm compute a module's weight
_NORMED = {"weight_g", "weight_v", "weight_orig"}

#: how an optimizer's state is stored, by the option ``states``
_STATES: dict[str, type[Fp32States]] = {"fp32": Fp32States, "bf16": Bf16States, "8bit": EightBitStates}

#: what a program does whose DTensors are not FSDP2's
_OTHERWISE = "spreads them by other means, too (tensor parallelism, replicate)"


class LeanWeights:
    """Splits the weights of every model that is trained.

    Args:
        fp32: widens what the program holds in 16 bits, before it is split.
        look: called with a model before its weights are looked at; it marks what ``keep=`` names.
        tell: called with a sentence for the user about costs.
    """

    def __init__(
        self,
        recipe: Recipe,
        fp32: Fp32Weights,
        look: Callable[[nn.Module], None],
        stop: Callable[[HalfstepError], NoReturn],
        tell: Callable[[str], object],
    ) -> None:
        self._name = recipe.name
        self.masters = Masters(Remainders() if recipe.remainder else StochasticRounding())
        self._stepping = Stepping(self.masters, self._step, tell, _STATES[recipe.states]())
        self._fp32 = fp32
        self._look = look
        self._stop = stop
        self._replicas = Replicas(recipe.name, self.masters, self._split_anew, self._keep, stop)
        self._shards = Shards(self.masters, self._refuse)
        self._held: IdentitySet[nn.Module] = IdentitySet()
        self._kept = WeakIdKeyDictionary()
        self._asked: IdentitySet[nn.Module] = IdentitySet()
        self._in_framework = False

    def install(self, devices: Sequence[str], patches: Patches) -> None:
        """Wrap what uses modules, what writes parameters and what makes optimizers."""
        functions.install(self.masters, patches)
        Writes(self.masters).install(patches)
        self._stepping.install(patches)
        patches.on_undo(in_fp32(devices).remove)
        patches.wrap(nn.Module, "named_parameters", self._reading)
        patches.wrap(nn.Module, "register_parameter", self._register_parameter)
        self._replicas.install(patches)
        self._shards.install(patches)
        patches.wrap(torch.utils, "swap_tensors", self._swapping)

    @property
    def cannot_be_undone(self) -> str:
        """Why not, as the rest of a sentence; empty where it can."""
        if self._replicas.any_made:
            return "DistributedDataParallel was given bf16 weights, and reduces nothing else; restart the program"
        return ""

    def shard(self, module: nn.Module, flat: bool) -> None:
        """The program is about to shard ``module``; ``flat``: by FSDP1, in one tensor for many weights."""
        if flat:
            self._refuse("shards them by FullyShardedDataParallel (FSDP1)")
        self.masters.flush()
        for parameter in module.parameters():
            if (master := self.masters.of(parameter)) is not None:
                self.masters.release(master)
        self._shards.notice(module)

    def _refuse(self, what: str) -> None:
        """End the program: it spreads its weights over processes in a way that halfstep cannot follow."""
        self._stop(
            Unsupported(
                f"Precision {self._name} follows weights that fully_shard (FSDP2) shards, but the program {what}; "
                "use fully_shard, DistributedDataParallel or --precision bf16."
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

    def framework_opens_region(self) -> None:
        """A framework is about to open a region: no call of a model will be the outermost one."""
        self._in_framework = True
        self.masters.flush()

    def _split_anew(self, module: nn.Module) -> None:
        self._fp32.hold(module)
        self._split(module)

    def _keep(self, parameter: Tensor) -> None:
        self._kept[parameter] = True

    def _split(self, module: nn.Module) -> None:
        if any(is_dtensor(p) for p in module.parameters()):
            self._shards.notice(module)
        if not self._shards.are_followed(module.parameters()):
            self._refuse(_OTHERWISE)
        self._replicas.check(module)
        self._look(module)
        self._keep_in(module)
        self._shards.hold([module], self._kept.__contains__)
        self.masters.hold(p for p in module.parameters() if p not in self._kept)
        self._held.add(module)

    def _keep_in(self, module: nn.Module) -> None:
        """Remember which parameters of ``module`` stay fp32."""
        for part in module.modules():
            if _stays_fp32(part) or KEPT in part.__dict__ or not _NORMED.isdisjoint(part._parameters.keys()):
                for parameter in (p for p in part._parameters.values() if p is not None):
                    self._kept[parameter] = True
                    master = self.masters.of(parameter)
                    if master is not None:
                        self.masters.release(master)

    def _step(self, parameters: Iterable[Tensor]) -> None:
        """An optimizer is about to step ``parameters``: split those that no call of a model has split.

        In a framework's region no call of a model was the outermost one.
        """
        parameters = list(parameters)
        if not self._shards.are_followed(parameters):
            self._refuse(_OTHERWISE)
        self._hold_shards(parameters)
        new = [p for p in parameters if self.masters.of(p) is None and can_be_held(p) and p not in self._kept]
        if new:
            for module in list(self._asked):
                self._keep_in(module)
            if not self._in_framework:
                self._keep_what_no_model_holds(new)
            self.masters.hold(p for p in new if p not in self._kept)

    def _keep_what_no_model_holds(self, parameters: Iterable[Tensor]) -> None:
        """Parameters that no model holds stay fp32: the script's own code computes with them and its fp32 tensors."""
        of_models = {id(p) for module in self._held for p in module.parameters()}
        for parameter in parameters:
            if id(parameter) not in of_models and parameter.grad is not None:
                self._kept[parameter] = True

    def _hold_shards(self, parameters: Iterable[Tensor]) -> None:
        """Split the shards of modules that were never called from outside of every other module."""
        if any(
            is_dtensor(p) and has_rows(p) and self.masters.of(p) is None and p not in self._kept
            for p in parameters
        ):
            for module in (modules := list(self._asked)):
                self._keep_in(module)
            self._shards.hold(modules, self._kept.__contains__)

    def _reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Remember modules whose parameters somebody asks for, perhaps for an optimizer."""

        def named_parameters(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                self._asked.add(module)
            return original(module, *args, **kwargs)

        return named_parameters

    def _swapping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Let two tensors change places, as ``to`` and ``load_state_dict`` do where the program asks PyTorch for it.

        PyTorch refuses to swap tensors that have weak references. Split parameters are fp32 meanwhile, and split again
        when they are used.
        """

        def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
            kept = [t for t in (t1, t2) if self._kept.pop(t, None)]
            split = self._let_go(t1, t2)
            try:
                return original(t1, t2)
            finally:
                for tensor in kept:
                    self._kept[tensor] = True
                for tensor in split:
                    self.masters.hold_again(tensor)

        return swap_tensors

    def _let_go(self, *tensors: Tensor) -> list[Tensor]:
        """Make split ones of these fp32 and drop all weak references to them; returns those."""
        split = []
        for tensor in tensors:
            if (master := self.masters.of(tensor)) is not None:
                self.masters.release(master)
                self._held.clear()
                split.append(tensor)
        return split

    def begin_pass(self) -> None:
        """A backward pass is about to start: it adds to existing gradients in fp32."""
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


def _stays_fp32(part: nn.Module) -> bool:
    if isinstance(part, ScriptModule):  # TorchScript keeps only the name of the class that it was made from
        classes = (cls for base in _IN_FP32 for cls in (base, *descendants(base)))
        return any(part.original_name == cls.__name__ for cls in classes)
    return isinstance(part, _IN_FP32)
