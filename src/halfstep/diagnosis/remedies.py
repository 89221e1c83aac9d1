"""What mends a finding: another scale, a module kept in fp32, another precision, or another line of code."""

from __future__ import annotations

import math
from dataclasses import replace

from halfstep.diagnosis.evidence import Case
from halfstep.diagnosis.finding import Remedy
from halfstep.module_names import shown
from halfstep.precisions.formats import get_scalar
from halfstep.precisions.loss_scale import StaticScale, scale_words
from halfstep.precisions.recipes import Recipe, parse


def keep(case: Case, module: str, kinds: dict[str, str]) -> list[Remedy]:
    """Keep the module in fp32; none where it is the whole model, or code outside of modules."""
    recipe = case.recipe
    outermost = not module or ("." not in module and kinds.get(module) == module)
    if outermost or recipe.compute not in ("bf16", "fp16") or module in recipe.keep:
        return []
    kept = replace(recipe, keep=(*recipe.keep, module))
    return [Remedy(f"keep {shown(module)} in fp32", str(kept))]


def wider(case: Case, reached: object = None) -> list[Remedy]:
    """The range of fp32 in 16 bits; and fp32 itself where that is no cure.

    Args:
        reached: the number that did not fit, where it is known: bf16's largest is 0.4 % below fp32's.
    """
    largest = get_scalar("bf16").largest
    if isinstance(reached, float) and largest < abs(reached) < math.inf and case.recipe.compute == "fp16":
        return [Remedy(f"use fp32: bf16 ends at {largest:.4g}, below {abs(reached):.4g}", "fp32")]
    if case.recipe.as_is:
        return fp32_weights(case)
    if case.recipe.compute == "fp16":
        name = "bf16-true" if case.recipe.name == "fp16-true" else "bf16"
        return [Remedy(f"use {name}, which has the range of fp32", name)]
    return [Remedy("use fp32", "fp32")] if case.recipe.compute == "bf16" else []


#: emulated precisions -> those that hold what they lose, the nearest first
_FINER = {
    "fp8": ("mxfp8",),
    "fp8-e4m3": ("mxfp8",),
    "fp8-e5m2": ("mxfp8",),
    "mxfp6": ("mxfp8",),
    "mxfp4": ("nvfp4", "mxfp8"),
    "nvfp4": ("mxfp8",),
}


def finer(case: Case) -> list[Remedy]:
    """Scales of blocks instead of the tensor's, more bits, or 16 of them, for an emulated precision."""
    words = {
        "mxfp8": "a scale for every 32 numbers",
        "nvfp4": "a scale for every 16 numbers, which fits closely",
    }
    found = [Remedy(f"use {name}: {words[name]}", name) for name in _FINER.get(case.recipe.name, ())]
    return [*found, Remedy("use bf16, which has the range of fp32", "bf16")]


def fp32_weights(case: Case) -> list[Remedy]:
    """The same compute format with weights and optimizer state in fp32; of a script's own 16-bit weights, fp32."""
    if case.recipe.as_is and case.sixteen_bit_weights:
        return [Remedy("hold the weights in fp32: load them so, or model.float()", "fp32")]
    name = case.recipe.compute
    if case.recipe.name not in ("bf16-true", "fp16-true"):
        return []
    return [Remedy(f"use {name}: weights and optimizer state stay in fp32", name)]


def scaled(case: Case, scale: float) -> list[Remedy]:
    """Another loss scale: the one that serves, or a dynamic one."""
    recipe = case.recipe
    if recipe.compute != "fp16":
        return []
    start = parse(recipe.name)
    found = []
    if isinstance(recipe.loss_scale, StaticScale):
        dynamic = replace(recipe, loss_scale=start.loss_scale)
        found.append(Remedy("let the loss scale find its height by itself", str(dynamic)))
    if scale != recipe.loss_scale.value and scale >= 1:
        found.append(Remedy(f"use a loss scale of {scale_words(scale)}", str(with_scale(recipe, scale))))
    return found


def with_scale(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with a fixed loss scale."""
    return replace(recipe, loss_scale=StaticScale(scale))


def code(text: str) -> list[Remedy]:
    """A change in the program."""
    return [Remedy(text)]
