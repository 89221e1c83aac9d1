"""16-bit weights (``bf16-true``, ``fp16-true``), as ``model.to(dtype)`` and inputs cast to it would do by hand.

At the first call of a model, and at a later call that finds other parameters, its parameters and buffers of float32, or
of the other 16-bit format, are converted in place (``Module.to`` keeps the parameter objects, so optimizers made before
hold the converted ones). Each outermost call casts its tensor arguments, too; ``autocast/true_regions.py`` says what
else it does. float64 stays float64. Optimizer state that was loaded from a checkpoint before follows its parameters,
and so do copies of the model that were made before, such as an average of its weights. Weights that a function
transform hands to a model (``functional_call`` inside of ``grad``) are cast for the length of a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from halfstep.passed_on import StateDict
from halfstep.pytorch.dtypes import KEPT, SIXTEEN_BIT, format_name
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.weights import module_casts
from halfstep.pytorch.weights.copies import Copies
from halfstep.pytorch.weights.counted import Counted
from halfstep.pytorch.weights.widening import narrow_tensors, plainly, widen
from halfstep.takeover.identity import IdentityDict, IdentitySet


class SixteenBitWeights:
    """Converts each model that is called to ``dtype``; modules that ``keep`` has marked stay as they are."""

    def __init__(
        self, dtype: torch.dtype, look: Callable[[nn.Module], None], note: Callable[[str, str], None]
    ) -> None:
        self._dtype = dtype
        self._source = sources_of(dtype)
        self._note = note
        self._look = look
        self._converted: IdentityDict[nn.Module, Counted] = IdentityDict()
        self._resumed: IdentitySet[Optimizer] = IdentitySet()
        self._copies = Copies()
        self._16_bit: IdentitySet[nn.Module] = IdentitySet()

    def install(self, patches: Patches) -> None:
        """Notice new parameters, copies of models, casts, and state that is loaded."""
        patches.wrap(Optimizer, "load_state_dict", self._load_state_dict)
        patches.wrap(nn.Module, "register_parameter", self._register_parameter)
        self._copies.install(patches)
        patches.wrap(
            nn.Module, "share_memory", lambda original: module_casts.sharing(original, self._convert)
        )
        module_casts.keep_values(self._asked, patches, applied=self._dtype)

    @property
    def has_converted(self) -> bool:
        """Whether some weights of the program have become 16-bit."""
        return bool(self._16_bit)

    def adopt(self, optimizers: Iterable[Optimizer]) -> None:
        """Convert the state of optimizers that the program made before, as their parameters were."""
        self._resumed.update(optimizers)

    def _asked(self, dtype: torch.dtype) -> None:
        """The program asks for weights of the other 16-bit format: they are rounded once, to the recipe's."""
        self._note(f"{format_name(dtype)} weights", format_name(dtype))

    def entered(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """``module`` is about to be called, with no other model's call around it; returns what to call it with."""
        known = self._converted.get(module)
        if known is None or not known.is_as_it_was():
            self._convert(module)
        return self._cast(args), self._cast(kwargs)

    def _cast(self, value: Any) -> Any:
        return cast(value, self._dtype, self._source)

    def _convert(self, module: nn.Module) -> None:
        self._look(module)
        later = False
        for part in self._copies.with_copies(module):
            if _of_transform(part) or any(p is not None and is_lazy(p) for p in part._parameters.values()):
                # The model's own weights are converted when they are back, and those of lazy layers when they are
                # drawn: in 16 bits they would be other random numbers than in fp32.
                later = True
            elif KEPT in part.__dict__:
                widen(narrow_tensors(part, only_used_by_products=False).values())
            else:
                made = {tensor.is_inference() for tensor in _tensors(part)}
                with _in_place(inference=made == {True}):
                    self._cast_part(part)
        if not later:
            self._16_bit.add(module)
            self._converted[module] = Counted(module, self._source)
        for optimizer in self._resumed:
            _follow_parameters(optimizer)

    def _cast_part(self, part: nn.Module) -> None:
        """Cast what ``part`` holds; an ``_apply`` of the script's that takes a function alone casts its parts, too."""
        try:
            inspect.signature(part._apply).bind(self._cast, recurse=False)
        except TypeError:
            kept = {
                id(tensor) for inner in part.modules() if KEPT in inner.__dict__ for tensor in _tensors(inner)
            }
            part._apply(lambda tensor: tensor if id(tensor) in kept else self._cast(tensor))
        else:
            part._apply(self._cast, recurse=False)

    def _register_parameter(self, original: Callable[..., None]) -> Callable[..., None]:
        """Look again at models that were called before: one may have a new layer or weight."""

        def register_parameter(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
            original(module, name, param)
            if param is not None and param.dtype in self._source:
                self._converted.clear()

        return register_parameter

    def _load_state_dict(self, original: Callable[..., None]) -> Callable[..., None]:
        def load_state_dict(optimizer: Optimizer, state_dict: StateDict) -> None:
            original(optimizer, state_dict)
            self._resumed.add(optimizer)

        return load_state_dict


@contextmanager
def _in_place(inference: bool) -> Iterator[None]:
    """Parameters stay the objects that optimizers hold, also where the program has casts make new ones.

    Args:
        inference: whether they were made in ``inference_mode``; PyTorch cannot use them with data made outside of it.
    """
    makes_new = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    try:
        with plainly(), torch.inference_mode(inference):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(makes_new)


def _tensors(part: nn.Module) -> Iterator[Tensor]:
    """The parameters, gradients and buffers of ``part`` itself."""
    for tensor in (*part._parameters.values(), *part._buffers.values()):
        if tensor is not None:
            yield tensor
            if tensor.grad is not None:
                yield tensor.grad


def sources_of(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The formats that become ``dtype``: float32, and the other 16-bit one."""
    return torch.float32, *(other for other in SIXTEEN_BIT if other is not dtype)


@contextmanager
def weights_of_transforms(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast the weights of ``module`` that belong to a function transform: they cannot be converted in place.

    What the call writes into a buffer is written into the transform's buffer.
    """
    if peek_interpreter_stack() is None:
        yield
        return
    source = sources_of(dtype)
    found: list[tuple[StateDict, str, Any, bool]] = []
    for part in module.modules():
        held: Any = {} if KEPT in part.__dict__ else {False: part._parameters, True: part._buffers}
        found += [
            (tensors, name, tensor, is_buffer)
            for is_buffer, tensors in held.items()
            for name, tensor in tensors.items()
            if _is_of_transform(tensor) and tensor.dtype in source
        ]
    try:
        for tensors, name, tensor, _ in found:
            tensors[name] = tensor.to(dtype)
        yield
    finally:
        for tensors, name, tensor, is_buffer in found:
            narrow, tensors[name] = tensors[name], tensor
            if is_buffer:
                tensor.copy_(narrow)


def _is_of_transform(tensor: Tensor | None) -> bool:
    return tensor is not None and is_functorch_wrapped_tensor(tensor)


def _of_transform(part: nn.Module) -> bool:
    return any(map(_is_of_transform, (*part._parameters.values(), *part._buffers.values())))


def _follow_parameters(optimizer: Optimizer) -> None:
    """Give loaded state the dtype of its parameter, as ``load_state_dict`` does if the parameter has it by then."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step":
                state[name] = cast(value, parameter.dtype)


def cast(value: Any, dtype: torch.dtype, source: tuple[torch.dtype, ...] = (torch.float32,)) -> Any:
    """Tensors of a ``source`` dtype in ``value`` cast to ``dtype``, inside tuples, lists and dicts as well."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in source else value
    if isinstance(value, dict) and type(value) is dict:
        return {key: cast(item, dtype, source) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(cast(item, dtype, source) for item in value)
    return value
