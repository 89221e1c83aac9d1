"""What a trial ran as, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halfstep.record.ran import EVERY_PRODUCT, FP16_SUMS, NOT_REACHED, Ran, worth_naming

#: what is said of regions that hold more than the calls of a model: the loss is computed in them, too
_INSIDE = {
    "layers": "the precision held for the loss too, as no model is called around the layers",
    "parameters": "the precision held for the loss too, as no module is called",
}


def words(ran: Ran) -> str:
    """What ran, e.g. ``bf16, weights bf16``, and what was asked for where that differs."""
    text = _products(ran)
    if ran.weights and ran.weights != ("fp32",):
        text = f"{text}, weights {' + '.join(ran.weights)}"
    if any(name not in ("fp32", "fp64") for name in ran.summed):
        text = f"{text}, gradients summed over ranks in {' + '.join(ran.summed)}"
    if ran.computed_otherwise:
        text = f"{text}; {ran.asked} was asked for"
    elif ran.stored_otherwise:
        text = f"{text}; {ran.asked_weights} weights were asked for"
    return text


def in_force_words(precision: str, ran: Ran) -> str:
    """What is known of a run whose products were not counted: the precision in force, and the weights if known.

    The reason is left out where the run only ended before the step whose products are counted.
    """
    text = f"precision {precision} was in force"
    if ran.weights and (ran.stored_otherwise or ran.weights != ("fp32",)):
        text = f"{text}, weights {' + '.join(ran.weights)}"
    if ran.stored_otherwise:
        text = f"{text}; {ran.asked_weights} weights were asked for"
    return text if ran.unknown in ("", NOT_REACHED) else f"{text}; what ran was not measured: {ran.unknown}"


def _products(ran: Ran) -> str:
    if ran.unknown:
        return f"not measured ({ran.unknown})"
    if not ran.products:
        return "no matrix products"
    if ran.emulated and ran.main == ran.asked:
        return f"{ran.emulated}, emulated in fp32"
    text = _formats(ran.products) + (" summed in fp16" if FP16_SUMS in ran.sums else "")
    text += " with CUDA's autocast lists" if ran.lists == "cuda" else ""
    if ran.fp32_units:
        text += f", {kinds_of_product(ran.fp32_units)} in fp32 units"
    if ran.software:
        text += f", {ran.software}'s own products in software"
    return text + (
        f"; {inside}" if ran.main in ("bf16", "fp16") and (inside := _INSIDE.get(ran.region)) else ""
    )


def _formats(shares: Mapping[str, float]) -> str:
    """``bf16``, or ``62% bf16 and 38% fp32`` where several have a share worth naming."""
    named = worth_naming(shares)
    return named[0] if len(named) == 1 else " and ".join(f"{shares[f]:.0%} {f}" for f in named)


def kinds_of_product(kinds: Sequence[str]) -> str:
    """``products``, or the kinds: ``short attention backward and transposed convolution``."""
    return "products" if EVERY_PRODUCT in kinds else " and ".join(k.replace("_", " ") for k in sorted(kinds))
