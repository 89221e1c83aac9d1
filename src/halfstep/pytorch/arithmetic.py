"""What computes a recipe's numbers where the program trains: the device's own units, fp32 units, or an emulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from halfstep.errors import Unsupported
from halfstep.machine.support import Support
from halfstep.pytorch import devices
from halfstep.pytorch.autocast import lists
from halfstep.pytorch.capabilities import in_software, support
from halfstep.pytorch.dtypes import DTYPES
from halfstep.pytorch.loss_scaling import scaled_pass
from halfstep.pytorch.native import builder as native
from halfstep.pytorch.products import cpp_kernel
from halfstep.pytorch.products.operations import Plan
from halfstep.pytorch.products.products import choose, install, plan
from halfstep.takeover.base import Options


class Arithmetic:
    """The arithmetic of one recipe on one type of device.

    Args:
        moved: called when the program turns out to train on another type of device.

    Attributes:
        device: the type of device that the program trains on.
        dtype: the 16-bit dtype that the recipe computes in, if it is one.
        fp32_units: the products that are computed in fp32 units, by dtype and kind.
        ran_as: in words, what the recipe runs as here.
        emulated: whether operands are rounded in fp32 tensors.

    Raises:
        Unsupported: the recipe cannot be run here; the message has the reason.
    """

    def __init__(self, options: Options, moved: Callable[[], None]) -> None:
        self._options = options
        self._recipe = options.recipe
        self._moved = moved
        self.device = devices.accelerator() or "cpu"
        self._placed = self.device == "cpu"
        self._support = self._supported()
        compute = self._recipe.compute
        self.dtype: torch.dtype | None = DTYPES[compute] if compute in ("bf16", "fp16") else None
        self.fp32_units = self._planned()
        self._prepare_kernels()
        self.ran_as = self._recipe.name
        self.emulated = False
        self._undo: list[Callable[[], None]] = []

    def _supported(self) -> Support | None:
        """What this machine's units can do for the recipe.

        Raises:
            Unsupported: it cannot be done here; the message has the reason.
        """
        if self._recipe.as_is:
            return None
        run = self._options.run
        if run.as_on is not None and self.device not in ("cpu", "cuda"):
            raise Unsupported(
                f"--as-on cuda applies CUDA's autocast lists on a CPU, but this program uses {self.device}; hide "
                "that device from it, or leave the option out."
            )
        only_emulated = Support("impossible", "halfstep runs it only emulated")
        found = only_emulated if self._recipe.only_emulated else support(self._recipe.compute, self.device)
        if found.kind == "impossible" and not (run.emulate and self.device == "cpu"):
            raise Unsupported(self._refusal(found.reason))
        return found

    def _refusal(self, reason: str) -> str:
        sentence = f"Precision {self._recipe.name} cannot run here: {reason}"
        if self.device == "cpu":
            return f"{sentence}; --emulate rounds to it inside fp32 tensors."
        if self._options.run.emulate:
            return f"{sentence}, and emulation needs a CPU; hide the {self.device} device from the program."
        return f"{sentence}."

    def _planned(self) -> Plan:
        """The products that are to be computed in fp32 units."""
        if self.dtype is None or self._support is None or self.device != "cpu":
            return {}
        return plan([self.dtype], self._options.run.products)

    def _sources(self) -> list[Path]:
        """The C and C++ sources that have to be compiled once, before the recipe can be put into force."""
        scaled = scaled_pass.SOURCES if self._recipe.loss_scale.guards else ()
        return [*scaled, *(cpp_kernel.SOURCES if self.fp32_units else ())]

    def _prepare_kernels(self) -> None:
        why = native.prepare(self._sources())
        if why:
            text = f"the kernels in C and C++ cannot be had ({why}): PyTorch's operations do their work, more slowly"
            self._options.say(text)
            self._options.writer.write("warning", text=text)

    @property
    def software_formats(self) -> list[str]:
        """The 16-bit formats whose products PyTorch computes in software here."""
        sixteen = ("bf16", "fp16")
        planned = self.fp32_units.get("product", frozenset())
        return [f for f in sixteen if DTYPES[f] not in planned and in_software(f, self.device)]

    @property
    def to_emulate(self) -> bool:
        """Whether no unit of this machine computes in the recipe's format."""
        return self._support is not None and self._support.kind == "impossible"

    def install(self) -> None:
        """Put the arithmetic into force."""
        if self.to_emulate:
            self._emulate()
        if self.dtype is not None and self._recipe.mixed:
            self._one_autocast_list()
        self._install_products()

    def _emulate(self) -> None:
        """Round the operands of every product; imported here because programs without emulation do not need it."""
        from halfstep.pytorch.emulation.emulate import Emulated
        from halfstep.pytorch.emulation.ops import Emulation

        recipe = self._recipe
        self._undo.append(Emulated(Emulation(recipe.name, recipe.compute, recipe.gradients)).remove)
        self.emulated = True
        self.ran_as = f"{recipe.described}, emulated in fp32"

    def _one_autocast_list(self) -> None:
        as_on_cuda = self._options.run.as_on is not None and self.device == "cpu"
        self._undo.append(lists.apply(as_on_cuda).remove)
        if as_on_cuda:
            self.ran_as = f"{self._recipe.name} with CUDA's autocast lists"

    def _install_products(self) -> None:
        """Products in fp32 units, all of them or the kinds that this CPU's 16-bit units are slow at."""
        if self.dtype is None or self._support is None or not self.fp32_units:
            return
        mode = self._options.run.products
        self._undo.append(install([self.dtype], mode).remove)
        what = (
            "products"
            if choose(mode, self._support)
            else " and ".join(kind.replace("_", " ") for kind in sorted(self.fp32_units))
        )
        self.ran_as = f"{self.ran_as}, {what} in fp32 units"

    def first_pass(self, losses: Sequence[Tensor]) -> None:
        """A backward pass is about to start; the first one shows where the program trains."""
        if not self._placed:
            self._placed = True
            self.place(losses)

    def place(self, tensors: Sequence[Tensor]) -> None:
        """The program trains on the device of these tensors, which beside a GPU may be the CPU: choose its products."""
        kinds = {tensor.device.type for tensor in tensors}
        if len(kinds) != 1 or kinds == {self.device}:
            return
        (self.device,) = kinds
        try:
            self._support = self._supported()
        except Unsupported as error:
            self._options.stop(error)
        if self.device == "cpu" and self.dtype is not None and self._support is not None:
            self.fp32_units = self._planned()
            self._prepare_kernels()
            self._install_products()
            if self._recipe.mixed and self._options.run.as_on is not None:
                self._one_autocast_list()
        self._moved()

    def remove(self) -> None:
        """Take the arithmetic off again."""
        for undo in self._undo:
            undo()
