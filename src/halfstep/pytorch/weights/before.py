"""The tensors that models held at their last call: a script may write 16-bit ones into their dictionaries unnoticed.

``module._parameters["weight"] = nn.Parameter(weight.half())``, ``module._buffers["mean"] = mean.half()`` and
``module.table = module.table.half()`` are noticed at the next call. If the new values are the old ones, rounded, the
old ones come back: those of buffers and attributes from here, those of parameters from the optimizers, which still hold
them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.weights.counted import Counted
from halfstep.pytorch.weights.narrowed import is_wide, put_back
from halfstep.pytorch.weights.widening import is_alone, not_trained
from halfstep.takeover.identity import IdentityDict, IdentitySet


class Before:
    """Remembers the tensors of each model.

    Args:
        only_saved: tells of a module whether its transient buffers and its attributes stay as the program has them.
        trained: gives the parameters of all optimizers.
        found: called with the 16-bit dtype of a cast.
    """

    def __init__(
        self,
        only_saved: Callable[[nn.Module], bool],
        trained: Callable[[], Iterable[Tensor]],
        found: Callable[[torch.dtype], None],
    ) -> None:
        self._only_saved, self._trained, self._found = only_saved, trained, found
        self._held: IdentityDict[nn.Module, _Model] = IdentityDict()
        self._parts: IdentityDict[nn.Module, _Part] = IdentityDict()
        self._wide: IdentitySet[nn.Module] = IdentitySet()

    def __contains__(self, module: nn.Module) -> bool:
        """Whether ``module`` has been looked at and still holds the same tensors; new fp32 ones do not matter.

        Costs some 0.1 us per parameter and buffer.
        """
        model = self._held.get(module)
        return model is not None and model.is_as_it_was()

    def __iter__(self) -> Iterator[nn.Module]:
        """The models."""
        return iter(list(self._held))

    def remember(self, module: nn.Module) -> None:
        """Remember what ``module`` holds: its weights have been looked at."""
        parts = list(module.modules())
        for part in parts:
            self._parts[part] = _Part(part, self._only_saved(part))
        self._held[module] = _Model(module, [self._parts[part] for part in parts])

    def was_wide(self, module: nn.Module) -> bool:
        """Whether no tensor of ``module``, a model or a part of one, was 16-bit when it was last looked at.

        It costs almost nothing; what the script has written since is noticed when the model is called.
        """
        return module in self._held or module in self._wide

    def remember_as_wide(self, module: nn.Module) -> None:
        """Remember that no tensor of ``module`` is 16-bit."""
        self._wide.add(module)

    def look_again(self) -> None:
        """Look at every model again when it is next called or read."""
        self._held.clear()
        self._wide.clear()

    def forget(self, part: nn.Module) -> None:
        """Drop what ``part`` held: it is being moved to another device."""
        if self._parts.pop(part, None) is not None:
            self.look_again()

    def restore(self, part: nn.Module, narrow: Mapping[str, Tensor]) -> None:
        """Undo casts: tensors of ``narrow`` (``part``'s 16-bit ones, by name) get the values from before their cast."""
        known = self._parts.get(part)
        if not narrow or known is None:
            return
        trained = {id(parameter): parameter for parameter in self._trained()}
        for name, tensor in narrow.items():
            before = known.before(name, trained)
            if before is not None and is_wide(before) and is_alone(tensor):
                put_back(tensor, before, self._found)

    def is_held(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a buffer or an attribute of a model."""
        return any(tensor is held for part in self._parts.values() for held in part.others.values())


class _Part:
    """What one module held: the identities of its parameters, and its other wide tensors.

    It holds no parameter, whose hooks may hold the module, and no weak reference to one: PyTorch would not swap it.
    """

    def __init__(self, part: nn.Module, only_saved: bool) -> None:
        self._parameters = {name: id(parameter) for name, parameter in part._parameters.items()}
        self._of, self._buffers = weakref.ref(part), part._buffers
        others = (
            {} if isinstance(part, ScriptModule) else not_trained(part, only_saved)
        )  # a module of TorchScript has no dictionaries
        self.others = {
            name: tensor for name, tensor in others.items() if is_wide(tensor) and not tensor.requires_grad
        }

    def before(self, name: str, trained: Mapping[int, Tensor]) -> Tensor | None:
        """The tensor that stood at ``name``, if it still exists."""
        return self.others.get(name, trained.get(self._parameters.get(name, 0)))

    def is_as_it_was(self) -> bool:
        """Whether no other tensor has become 16-bit; new fp32 ones are remembered."""
        if all(map(is_, map(self._buffers.get, self.others), self.others.values())):
            return True  # it has only buffers, as nearly every module
        part = self._of()
        attributes = {} if part is None else vars(part)
        now: dict[str, Tensor | None] = {
            name: self._buffers.get(name, attributes.get(name)) for name in self.others
        }
        wide = {
            name: tensor
            for name, tensor in now.items()
            if tensor is not None and is_wide(tensor) and not tensor.requires_grad
        }
        self.others.update(wide)
        return len(wide) == len(now)


class _Model:
    """What one model held: how many 16-bit parameters, and its parts that hold other tensors."""

    def __init__(self, model: nn.Module, parts: Iterable[_Part]) -> None:
        self._narrow = Counted(model, SIXTEEN_BIT)
        self._with_others = [part for part in parts if part.others]

    def is_as_it_was(self) -> bool:
        """Whether nothing has become 16-bit."""
        return self._narrow.is_as_it_was() and all(part.is_as_it_was() for part in self._with_others)
