"""What mends a finding: another scale, a module kept in fp32, or another precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from halfstep.diagnosis.evidence import Case
from halfstep.diagnosis.model import Remedy
from halfstep.precisions.formats import get_scalar
from halfstep.precisions.loss_scale import StaticScale
from halfstep.precisions.recipes import parse


def keep(case: Case, module: str) -> list[Remedy]:
    """Keep the module in fp32; none where it is the whole model, or code outside of modules."""
    recipe = case.recipe
    outermost = not module or ("." not in module and case.tried.kinds.get(module) == module)
    if outermost or recipe.compute not in ("bf16", "fp16") or module in recipe.keep:
        return []
    return [Remedy(recipe=str(replace(recipe, keep=(*recipe.keep, module))), change="keep", names=(module,))]


def wider(case: Case, reached: float | None = None) -> list[Remedy]:
    """The range of fp32 in 16 bits; and fp32 itself where that is no cure.

    Args:
        reached: the number that did not fit, where it is known: bf16's largest is 0.4 % below fp32's.
    """
    largest, reached = get_scalar("bf16").largest, abs(reached or 0.0)
    if largest < reached < math.inf and case.recipe.compute == "fp16":
        return [Remedy(recipe="fp32", change="fp32_beyond_bf16", figure=reached)]
    if case.recipe.as_is:
        return fp32_weights(case)
    if case.recipe.compute == "fp16":
        name = "bf16-true" if case.recipe.name == "fp16-true" else "bf16"
        return [Remedy(recipe=name, change="range_of_fp32")]
    return [Remedy(recipe="fp32", change="fp32")] if case.recipe.compute == "bf16" else []


#: emulated precisions -> those that hold what they lose, the nearest first
_FINER: Mapping[str, tuple[str, ...]] = {
    "fp8": ("mxfp8",),
    "fp8-e4m3": ("mxfp8",),
    "fp8-e5m2": ("mxfp8",),
    "mxfp6": ("mxfp8",),
    "mxfp4": ("nvfp4", "mxfp8"),
    "nvfp4": ("mxfp8",),
}


def finer(case: Case) -> list[Remedy]:
    """For an emulated precision: a scale for each block instead of one for the tensor, more bits, or 16 bits."""
    blocks = [Remedy(recipe=name, change="block_scales") for name in _FINER.get(case.recipe.name, ())]
    return [*blocks, Remedy(recipe="bf16", change="range_of_fp32")]


def fp32_weights(case: Case) -> list[Remedy]:
    """The same compute format with weights and optimizer state in fp32; of a script's own 16-bit weights, fp32."""
    if case.recipe.as_is and case.sixteen_bit_weights:
        return [Remedy(recipe="fp32", change="own_weights_in_fp32")]
    if case.recipe.name not in ("bf16-true", "fp16-true"):
        return []
    return [Remedy(recipe=case.recipe.compute, change="weights_in_fp32")]


def scaled(case: Case, scale: float) -> list[Remedy]:
    """Another loss scale: the one that serves, or a dynamic one."""
    recipe = case.recipe
    if recipe.compute != "fp16":
        return []
    found = []
    if isinstance(recipe.loss_scale, StaticScale):
        dynamic = replace(recipe, loss_scale=parse(recipe.name).loss_scale)
        found.append(Remedy(recipe=str(dynamic), change="dynamic_scale"))
    if scale != recipe.loss_scale.value and scale >= 1:
        fixed = replace(recipe, loss_scale=StaticScale(scale))
        found.append(Remedy(recipe=str(fixed), change="loss_scale", figure=scale))
    return found
