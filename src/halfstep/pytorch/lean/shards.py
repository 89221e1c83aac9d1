"""``bf16-lean`` under FSDP2 (``fully_shard``): every process holds the bf16 numbers and the remainders of its shard.

FSDP2 keeps two things of a parameter: a flat tensor, from which the whole weight is gathered for each pass, and a
DTensor, which the program and its optimizer see. The flat tensor becomes bf16, so FSDP2 gathers bf16, and the model
computes with it. The DTensor stays fp32 for everybody: code that asks for the tensor inside it gets fp32 numbers
(masters.py), and all work on a DTensor goes through that tensor: steps, writes, state dicts.

The gradients of whole weights are bf16; gradients that several passes add up before they are reduced are fp32. FSDP2
reduces them in fp32, as under fp32 weights; then the shard's gradient of one pass is rounded to bf16, once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from halfstep.pytorch.lean import registry
from halfstep.pytorch.lean.choice import has_rows
from halfstep.pytorch.lean.masters import Masters
from halfstep.pytorch.lean.shard import Gathered, Shard, of_local, padded, put
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights.widening import is_alone, is_dtensor
from halfstep.takeover.identity import IdentitySet

_FSDP = "torch.distributed.fsdp._fully_shard"


class Shards:
    """Splits the shards of modules that FSDP2 was given.

    Args:
        refuse: ends the program; called with what it does that halfstep cannot follow.
    """

    def __init__(self, masters: Masters, refuse: Callable[[str], None]) -> None:
        self._masters, self._refuse = masters, refuse
        self._modules: IdentitySet[nn.Module] = IdentitySet()
        self._known: dict[int, weakref.ref[Any]] = {}
        self._slot: Any = None

    def install(self, patches: Patches) -> None:
        """Wrap FSDP2's functions as soon as the program imports it."""
        patches.when_imported(f"{_FSDP}._fsdp_param_group", lambda module: self._follow(module, patches))

    def _follow(self, module: Any, patches: Patches) -> None:
        from torch.distributed.tensor import DTensor

        group, one = module.FSDPParamGroup, module.FSDPParam
        self._slot = DTensor.__dict__["_local_tensor"]
        patches.set(DTensor, "_local_tensor", property(self._get_local, self._set_local))
        local = one.__dict__["_sharded_local_tensor"].fget
        patches.set(one, "_sharded_local_tensor", property(lambda fsdp: self._stored(fsdp, local)))
        patches.wrap(one, "reset_sharded_param", self._resetting)
        patches.wrap(one, "init_unsharded_param", self._gathering)
        patches.wrap(one, "to_accumulated_grad_if_needed", self._adding_up)
        patches.wrap(one, "to_sharded_dtensor", self._reduced)
        for name in ("unsharded_grad_data", "unsharded_zero_grad_data"):
            if name in one.__dict__:
                patches.set(one, name, property(self._in_fp32(one.__dict__[name].fget)))
        patches.wrap(group, "unshard", self._unsharding)
        patches.wrap(group, "post_backward", self._reducing)

    def notice(self, module: nn.Module) -> None:
        """``module`` is being sharded, or parts of it have been."""
        self._modules.add(module)
        self._modules.update(part for part in module.modules() if _groups(part))

    def are_followed(self, tensors: Iterable[Tensor]) -> bool:
        """Whether all DTensors among ``tensors`` are FSDP2's."""
        unknown = [t for t in tensors if is_dtensor(t) and not self._knows(t)]
        if unknown:
            self._known = {id(one.sharded_param): weakref.ref(one) for one in _of(self._modules)}
        return all(self._knows(tensor) for tensor in unknown)

    def _knows(self, tensor: Tensor) -> bool:
        one = self._known.get(id(tensor), lambda: None)()
        return one is not None and one.sharded_param is tensor

    def hold(self, modules: Iterable[nn.Module], kept: Callable[[Tensor], bool]) -> None:
        """Split the shards that are to be split; FSDP2 gathers their weights in bf16 from now on.

        Args:
            modules: any; of them and their parts, those count that were sharded.
            kept: tells which parameters stay fp32.
        """
        if self._slot is None:
            return
        parts = {part: None for module in modules for part in module.modules() if _groups(part)}
        for part in parts:
            some = [one for one in _of([part]) if self._is_to_be_held(one, kept)]
            if some:
                part.reshard()  # type: ignore[operator]
            for one in some:
                self._hold(one)

    def _is_to_be_held(self, one: Any, kept: Callable[[Tensor], bool]) -> bool:
        parameter = one.sharded_param
        if not parameter.requires_grad or not has_rows(parameter) or kept(parameter):
            return False
        if self._masters.of(parameter) is not None or parameter.dtype is not torch.float32:
            return False
        if one.is_dtensor or type(one.mesh_info).__name__ == "DDPMeshInfo":
            self._refuse("spreads them by other means, too (tensor parallelism, replicate)")
        if one.offload_to_cpu:
            self._refuse("offloads them to the CPU (CPUOffloadPolicy)")
        local = self._slot.__get__(parameter)
        unreduced = getattr(getattr(one, "_unsharded_param", None), "grad", None) is not None
        return type(local) is Tensor and not local.is_meta and not unreduced

    @torch.no_grad()
    def _hold(self, one: Any) -> None:
        masters, parameter = self._masters, one.sharded_param
        wide = self._slot.__get__(parameter)
        flat, weight = padded(one, torch.empty_like(wide, dtype=torch.bfloat16))
        parts = masters.form.parts(weight)
        masters.form.split([wide], [parts])
        gradient, parameter.grad = parameter.grad, None
        parameter.grad_dtype = None
        parameter.grad = gradient
        shard = Shard(one, parts, self._slot.__set__)
        self._slot.__set__(parameter, weight)
        put(one, flat)
        registry.enter(parameter, shard)
        if not is_alone(wide):  # somebody holds it: an earlier state dict, for example
            masters.show_as(shard, wide)

    def _get_local(self, tensor: Tensor) -> Tensor:
        held = registry.held(tensor)
        if not isinstance(held, Shard):
            return self._slot.__get__(tensor)  # type: ignore[no-any-return]
        return held.numbers if held.is_wide else self._masters.show(held)

    def _set_local(self, tensor: Tensor, local: Tensor) -> None:
        held = registry.held(tensor)
        if isinstance(held, Shard):
            self._masters.release(held)
        self._slot.__set__(tensor, local)

    def _held(self, one: Any) -> Shard | None:
        held = registry.held(one.sharded_param)
        return held if isinstance(held, Shard) else None

    def _stored(self, one: Any, local: Callable[[Any], Tensor]) -> Tensor:
        """The local tensor in which FSDP2 looks for extensions; this look does not count as one from outside."""
        held = self._held(one) if hasattr(one, "sharded_param") else None
        return local(one) if held is None else held.parts.weight

    def _resetting(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        """FSDP2 looks at its parameters again: the program may have replaced some."""

        def reset_sharded_param(one: Any) -> None:
            held, info = self._held(one), one._module_info
            if held is not None:
                if getattr(info.module, info.param_name) is one.sharded_param:
                    return
                self._masters.release(held)
            original(one)

        return reset_sharded_param

    def _gathering(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def init_unsharded_param(one: Any) -> None:
            original(one)
            weight = one._unsharded_param
            if self._held(one) is not None and registry.held(weight) is None:
                registry.enter(weight, Gathered(weight))

        return init_unsharded_param

    def _unsharding(self, original: Callable[..., None]) -> Callable[..., None]:
        def unshard(group: Any, *args: Any, **kwargs: Any) -> None:
            self._masters.flush()
            original(group, *args, **kwargs)

        return unshard

    def _adding_up(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        """The gradient of a pass is not reduced yet: the gradients of the next passes are added to it in fp32."""

        def to_accumulated_grad_if_needed(one: Any) -> None:
            weight = one._unsharded_param
            if self._held(one) is None or weight.grad is None:
                original(one)
                return
            gradient, weight.grad = weight.grad, None
            one.unsharded_accumulated_grad = gradient.to(torch.float32)

        return to_accumulated_grad_if_needed

    def _in_fp32(self, gradient: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        """The gradient in fp32: FSDP2 reduces the gradients of a group together, in one dtype."""
        return lambda one: gradient(one).to(torch.float32) if _is_reducing(one) else gradient(one)

    def _reducing(self, original: Callable[..., None]) -> Callable[..., None]:
        def post_backward(group: Any, *unused: Any) -> None:
            held = [one for one in group.fsdp_params if self._held(one) is not None]
            for one in held:
                one._halfstep_added_up = one.unsharded_accumulated_grad is not None
                gradient = one.sharded_param.grad
                if gradient is not None and gradient.dtype is torch.bfloat16:  # this pass is added to it
                    one.sharded_param.grad = gradient.to(torch.float32)
            for one in group.fsdp_params if held else ():
                one._halfstep_reducing = True
            try:
                original(group, *unused)
            finally:
                for one in group.fsdp_params if held else ():
                    one._halfstep_reducing = False

        return post_backward

    def _reduced(self, original: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
        """Give a shard's reduced gradient, which is a view of the whole group's, memory of its own."""

        def to_sharded_dtensor(one: Any, tensor: Tensor) -> Tensor:
            if not _is_reducing(one):
                return original(one, tensor)
            if self._held(one) is None or one._halfstep_added_up:
                return original(one, tensor.clone())
            return of_local(one, tensor.to(torch.bfloat16))

        return to_sharded_dtensor


def _is_reducing(one: Any) -> bool:
    """Whether the gradients of a group with a split shard are being reduced."""
    return getattr(one, "_halfstep_reducing", False)


def _groups(module: nn.Module) -> list[Any]:
    """FSDP2's groups of parameters of ``module`` itself."""
    state = getattr(module, "_get_fsdp_state", lambda: None)() if hasattr(module, "reshard") else None
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    alone = getattr(state, "_fsdp_param_group", None)
    return [] if alone is None else [alone]


def _of(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """FSDP2's parameters."""
    return (one for module in list(modules) for group in _groups(module) for one in group.fsdp_params)
