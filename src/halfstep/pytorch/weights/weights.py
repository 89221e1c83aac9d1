"""The formats of a program's weights under a recipe: 16-bit, bf16 with a remainder, fp32, or the program's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NoReturn

import torch
from torch import nn
from torch.optim import Optimizer

from halfstep.errors import HalfstepError
from halfstep.precisions.recipes import Recipe
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.operands import Operands
from halfstep.pytorch.keep import Keep
from halfstep.pytorch.lean.weights import LeanWeights
from halfstep.pytorch.patches import Patches
from halfstep.pytorch.true_16bit import SixteenBitWeights
from halfstep.pytorch.weights.fp32_weights import Fp32Weights
from halfstep.pytorch.weights.only_fp32 import OnlyFp32


class Weights:
    """Weights of models and optimizers, and the modules that stay in fp32 by ``keep=``.

    Args:
        dtype: the 16-bit dtype that it computes in, if it is one.
        note: called with the lower precision that the script itself asks for.

    Attributes:
        hold: makes the weights of a module fp32, where the recipe says so, before they are sharded or replicated.
    """

    def __init__(
        self,
        recipe: Recipe,
        dtype: torch.dtype | None,
        regions: NoRegions,
        operands: Operands,
        note: Callable[[str, str], None],
        stop: Callable[[HalfstepError], NoReturn],
        tell: Callable[[str], object],
        patches: Patches,
    ) -> None:
        self._operands, self._regions, self._patches = operands, regions, patches
        keep = self._keep = Keep(recipe.keep, patches, None if recipe.mixed else dtype)
        self._16_bit: SixteenBitWeights | None = None
        self._fp32: Fp32Weights | None = None
        self._only_fp32: OnlyFp32 | None = None
        self._lean: LeanWeights | None = None
        self.hold: Callable[[nn.Module], None] = lambda module: None
        if dtype is not None and not recipe.mixed:
            self._16_bit = SixteenBitWeights(dtype, keep.look, note)
        if recipe.weights == "fp32" or recipe.lean:
            compute = dtype if recipe.mixed else None
            self._fp32 = Fp32Weights(compute, keep.look, note, self._promote, regions.without_modules)
            self.hold = self._fp32.hold
            if recipe.lean:
                self._lean = LeanWeights(recipe, self._fp32, keep.look, stop, tell)

    def install(self) -> None:
        """Wrap what makes, casts and calls models, and what makes optimizers."""
        if self._16_bit is not None:
            self._16_bit.install(self._patches)
            self._regions.on_entry(self._16_bit.entered)
        else:
            self._keep.install()
        if self._fp32 is not None:
            self._fp32.install(self._patches)
            if self._regions.dtype is torch.float32:
                self._only_fp32 = OnlyFp32(self._patches, self._fp32.found, self._fp32.saves)
            self._regions.on_entry(self._fp32.entered)
        if self._lean is not None:
            self._lean.install(self._regions.devices, self._patches)
            self._regions.weights_are_narrow()
            self._regions.on_entry(self._lean.entered, self._lean.framework_opens_region)

    def _promote(self) -> None:
        """The program holds 16-bit numbers: promote them where they meet fp32, or where everything is to be fp32."""
        self._operands.let_meet()
        if self._only_fp32 is not None:
            self._only_fp32.begin()
        else:
            self._operands.let_formats_meet()

    def begin_pass(self) -> None:
        """Gradients are about to be computed."""
        if self._lean is not None:
            self._lean.begin_pass()

    def adopt(self, optimizers: Collection[Optimizer]) -> None:
        """Take in optimizers that the program made before."""
        for weights in (self._16_bit, self._fp32):
            if weights is not None:
                weights.adopt(optimizers)

    def check_kept(self) -> None:
        """Every model has been called: raise UsageError where a pattern of ``keep=`` has matched nothing."""
        self._keep.stepped()

    def after_first_step(self) -> None:
        """Take away what the first step did not need, once."""
        if self._fp32 is not None:
            self._fp32.after_first_step()
        if self._only_fp32 is not None:
            self._only_fp32.after_first_step()

    @property
    def cannot_be_undone(self) -> str:
        """Why not, as the rest of a sentence; empty where it can."""
        if self._16_bit is not None and self._16_bit.has_converted:
            return "it has made the weights of a model 16-bit, and their other bits are gone; restart the program"
        return "" if self._lean is None else self._lean.cannot_be_undone

    def shard(self, module: nn.Module, flat: bool = False) -> None:
        """The program is about to shard ``module``; ``flat``: by FSDP1, in one tensor for many weights."""
        if self._lean is not None:
            self._lean.shard(module, flat)
        self.hold(module)

    def remove(self) -> None:
        """Take away what the patches do not undo."""
        if self._only_fp32 is not None:
            self._only_fp32.remove()
        if self._lean is not None:
            self._lean.remove()
