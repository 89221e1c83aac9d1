"""What the takeover needs from Keras's backend to put a recipe into force."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from halfstep.errors import Unsupported
from halfstep.keras import units
from halfstep.keras.recording.sample import Sample
from halfstep.keras.runtime import Runtime
from halfstep.machine.support import Support
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.base import Options, Takeover
from halfstep.takeover.patches import Patches

if TYPE_CHECKING:
    from halfstep.keras.loops.base import OwnLoop, Parts


class Backend(Runtime, ABC):
    """One of Keras's backends. It tells how products are computed on a backend that has no takeover of its own.

    Attributes:
        name: Keras's name for it.
        title: its own name.
        emulated: whether the recipe's format is rounded to inside of fp32 tensors.
        product_fields: the fields of a record's ``takeover`` event about products in fp32 units.
    """

    name: str
    title: str
    version: str
    emulated = False
    product_fields: Mapping[str, object] = {"fp32_units": [], "lists": None}

    def attach(self, others: Sequence[Takeover]) -> None:
        """Find the takeover that works below Keras's on this backend among those that were made before."""

    @abstractmethod
    def device(self) -> str:
        """``cpu``, or the kind of accelerator that the backend uses."""

    def accelerators(self) -> list[tuple[str, tuple[int, ...] | None]]:
        """The name of each GPU that the backend sees, and its compute capability or None. Not used on PyTorch."""
        return []

    def support(self, precision: str) -> Support:
        """How products in ``precision`` are computed on the device that the backend uses here."""
        gpus = self.accelerators()
        if gpus:
            return units.gpu_support(precision, gpus[0][1])
        return units.cpu_support(precision, units.flags())

    def best(self) -> tuple[str, str]:
        """The precision to begin with, and why: the first of bf16 and fp16 for which the device has units."""
        for precision in ("bf16", "fp16"):
            found = self.support(precision)
            if found.kind == "native":
                return precision, found.reason
        return "fp32", f"no faster units here: {self.support('bf16').reason}"

    def ran_as(self, options: Options) -> str:
        """What the recipe runs as here, in words.

        Raises:
            Unsupported: it cannot be done here; the message has the reason.
        """
        recipe = options.recipe
        if recipe.as_is:
            return recipe.name
        self._refuse_pytorch_only(options)
        found = self.support(recipe.compute)
        if found.kind == "impossible":
            raise Unsupported(f"Precision {recipe.name} cannot run here: {found.reason}.")
        slow = self.software(recipe)
        return f"{recipe.name}, {slow}'s own products in software" if slow else recipe.name

    def software(self, recipe: Recipe) -> str | None:
        """The name of the backend if it computes the recipe's products in software here; else None."""
        return self.title if self.software_formats(recipe) else None

    def software_formats(self, recipe: Recipe) -> list[str]:
        """The 16-bit formats whose products the backend computes in software here; under ``as-is`` any may run."""
        formats = ("bf16", "fp16") if recipe.as_is else (recipe.compute,)
        return [f for f in formats if self.support(f).kind == "emulated"]

    def _refuse_pytorch_only(self, options: Options) -> None:
        """Raise for options that work in PyTorch alone."""
        precision = options.recipe
        sixteen = precision.compute in ("bf16", "fp16")
        if precision.only_emulated:
            raise Unsupported(
                f"Precision {precision.name} cannot run here: halfstep emulates it in PyTorch, not in {self.title}."
            )
        if options.run.products == "fp32" and sixteen:
            raise Unsupported(
                f"--products fp32 is for PyTorch: {self.title} computes {precision.compute} products itself; "
                "leave the option away."
            )
        if options.run.as_on is not None and sixteen:
            raise Unsupported(
                f"--as-on {options.run.as_on} is for PyTorch: in Keras every layer has a policy, which is the same on "
                "every device; leave the option away."
            )
        if options.watch:
            raise Unsupported(
                f"A diagnosis looks into PyTorch, not into {self.title}; set KERAS_BACKEND to torch."
            )

    def set_tf32(self, on: bool) -> None:
        """Let fp32 products use TF32 units, or forbid it."""

    def mix_operands(self, narrow: str, patches: Patches) -> None:
        """Let operations compute in the dtype ``narrow``, beside float32 operands too, where the backend does not."""

    @abstractmethod
    def sample(self) -> Sample:
        """What looks closely at one step."""

    @abstractmethod
    def own_loop(self, parts: Parts) -> OwnLoop:
        """What guards and records loops of the script's own."""
