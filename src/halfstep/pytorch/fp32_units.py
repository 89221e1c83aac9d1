"""Which units products of float32 numbers may run in: fp32's own, or TF32's where the recipe is ``tf32``.

A script can ask for fewer bits in several ways: by ``torch.set_float32_matmul_precision``, by ``allow_tf32`` of a
backend, and by ``fp32_precision`` of all backends, of one, or of one kind of its products. Each of them calls one of
five C functions of PyTorch's. PyTorch's defaults on CUDA: fp32 in cuBLAS, TF32 in cuDNN's convolutions.

Source: the notes "Numerical accuracy" and "CUDA semantics" of PyTorch's documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Taken before any is replaced: while a recipe is in force, the functions in torch._C note what the script sets.
from torch._C import (
    _get_cudnn_allow_tf32,
    _get_float32_matmul_precision,
    _get_fp32_precision_getter,
    _set_cudnn_allow_tf32,
    _set_float32_matmul_precision,
    _set_fp32_precision_setter,
)

from halfstep.pytorch.patches import Patches

_SETTERS = (
    "_set_float32_matmul_precision", "_set_cublas_allow_tf32", "_set_cudnn_allow_tf32", "_set_onednn_allow_tf32",
    "_set_fp32_precision_setter",
)  # fmt: skip
#: backends whose ``allow_tf32`` keeps its setter itself, instead of looking it up in ``torch._C``
_ALLOWING = {"cudnn": "_set_cudnn_allow_tf32", "mkldnn": "_set_onednn_allow_tf32"}

#: the places that have a setting; "none" at a kind of products stands for the setting of its backend, and "none" there
#: for the setting of all backends
_PLACES = (
    ("generic", "all"),
    *((backend, kind) for backend in ("cuda", "mkldnn") for kind in ("all", "matmul", "conv", "rnn")),
)

#: values that ask for fewer bits than fp32 has
FEWER = (True, "tf32", "bf16", "high", "medium")

#: called for each line of the script that asks for fewer bits: with what it sets, and to which of :data:`FEWER`
Asked = Callable[[str, Any], None]


class Fp32Units:
    """Holds PyTorch's settings, whatever the script sets, until the patches are undone.

    Args:
        tf32: whether products may run in TF32 units.
        asked: called with what the script sets.
    """

    def __init__(self, tf32: bool, asked: Asked) -> None:
        self._precision = "tf32" if tf32 else "ieee"
        self._asked = asked
        self._before = _settings()
        self._by_script: dict[str, Callable[[], None]] = {}

    def install(self, patches: Patches) -> None:
        """Hold them from now on."""
        self._hold()
        watch(self._set, patches)
        patches.on_undo(self.release)

    def release(self) -> None:
        """Restore the settings of before, then set what the script has set; PyTorch's own setters have to be back."""
        for restore in (*self._before, *self._by_script.values()):
            restore()

    def _hold(self) -> None:
        tf32 = self._precision == "tf32"
        _set_float32_matmul_precision("high" if tf32 else "highest")
        _set_cudnn_allow_tf32(tf32)
        # All of them: PyTorch refuses to answer if the old and the new settings differ.
        for place in _PLACES:
            _set_fp32_precision_setter(*place, self._precision)

    def _set(self, what: str, value: Any, setter: Callable[[], None]) -> None:
        """The script sets something: PyTorch checks it, and it comes into force when the recipe is taken off."""
        setter()
        self._hold()
        self._by_script.pop(what, None)  # to keep the order of the last settings
        self._by_script[what] = setter
        if value in FEWER:
            self._asked(what, value)


def watch_only(asked: Asked, patches: Patches) -> None:
    """Note what the script sets, which stays in force."""

    def set_(what: str, value: Any, setter: Callable[[], None]) -> None:
        setter()
        if value in FEWER:
            asked(what, value)

    watch(set_, patches)


def watch(set_: Callable[[str, Any, Callable[[], None]], None], patches: Patches) -> None:
    """Call ``set_`` in place of PyTorch's setters: with what is set, the value, and a function that sets it."""

    def watching(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def wrap(original: Callable[..., None]) -> Callable[..., None]:
            def setter(*arguments: Any) -> None:
                *place, value = arguments
                set_(_attribute(name, place), value, lambda: original(*arguments))

            return setter

        return wrap

    for name in _SETTERS:
        patches.wrap(torch._C, name, watching(name))
    for backend, name in _ALLOWING.items():
        prop = vars(type(getattr(torch.backends, backend)))["allow_tf32"]
        patches.set(prop, "setter", getattr(torch._C, name))


def _attribute(setter: str, place: list[str]) -> str:
    """What the script sets, as the script writes it."""
    if setter == "_set_float32_matmul_precision":
        return "torch.set_float32_matmul_precision"
    if setter == "_set_cublas_allow_tf32":
        return "torch.backends.cuda.matmul.allow_tf32"
    if not place:
        return f"torch.backends.{'cudnn' if setter == '_set_cudnn_allow_tf32' else 'mkldnn'}.allow_tf32"
    backend, kind = place
    home = {"generic": "", "cuda": ".cuda" if kind == "matmul" else ".cudnn", "mkldnn": ".mkldnn"}[backend]
    return f"torch.backends{home}{'' if kind == 'all' else f'.{kind}'}.fp32_precision"


def _settings() -> list[Callable[[], None]]:
    """A function that restores PyTorch's settings as they are now."""
    try:
        matmul = _get_float32_matmul_precision()
    except RuntimeError:  # they were set by the newer interface, which the places have
        matmul = "highest"
    try:
        cudnn = _get_cudnn_allow_tf32()
    except RuntimeError:
        cudnn = True
    places = [(*place, _get_fp32_precision_getter(*place)) for place in _PLACES]

    def restore_places() -> None:
        for place in places:
            _set_fp32_precision_setter(*place)

    return [
        lambda: _set_float32_matmul_precision(matmul),
        lambda: _set_cudnn_allow_tf32(cudnn),
        restore_places,
    ]


#: format -> the settings that let a GPU sum products in that format in fewer bits than fp32
_SUMS = {
    "bf16": ("allow_bf16_reduced_precision_reduction",),
    "fp16": ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation"),
}


def sums_of(formats: Iterable[str]) -> list[str]:
    """Which of these settings are on, by the script or by PyTorch's default, for products in ``formats``."""
    names = [name for form in formats for name in _SUMS.get(form, ())]
    return [name for name in names if getattr(torch.backends.cuda.matmul, name)]


def units_of(kind: str, cuda: bool) -> str:
    """The format in whose units products of fp32 numbers run now: ``fp32``, ``tf32``, or on a CPU with AMX ``bf16``.

    Args:
        kind: ``matmul``, ``conv`` or ``rnn``: each has a setting of its own.
        cuda: whether they run on a GPU.
    """
    precision = _get_fp32_precision_getter("cuda" if cuda else "mkldnn", kind)
    if cuda:
        return "tf32" if precision == "tf32" else "fp32"
    return "bf16" if precision == "bf16" and torch.cpu._is_amx_tile_supported() else "fp32"
