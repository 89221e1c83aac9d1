"""Whether a recipe can run in Keras here, and as what; what cannot is refused with the reason."""

from __future__ import annotations

from halfstep.errors import Unsupported
from halfstep.keras.backends import base as backend
from halfstep.keras.capabilities import support
from halfstep.precisions.recipes import Recipe
from halfstep.takeover.base import Options, Takeover


def ran_as(options: Options, beneath: Takeover | None) -> str:
    """What the recipe runs as on the running backend, in words.

    Args:
        options: how the recipe is put into force.
        beneath: PyTorch's takeover, on that backend.

    Raises:
        Unsupported: it cannot be done here; the message has the reason.
    """
    running, recipe = backend.name(), options.recipe
    name = backend.NAMES.get(running)
    if name is None:
        raise Unsupported(
            f"Keras runs on {running} here, where halfstep cannot put a precision into force; set "
            "KERAS_BACKEND to tensorflow, torch or jax."
        )
    if running == "torch":
        return recipe.name if beneath is None else str(beneath.ran_as)
    if recipe.as_is:
        return recipe.name
    _refuse_what_is_pytorchs(options, name)
    found = support(recipe.compute, running)
    if found["kind"] == "impossible":
        raise Unsupported(f"Precision {recipe.name} cannot run here: {found['reason']}.")
    slow = software(recipe, running)
    return f"{recipe.name}, {slow}'s own products in software" if slow else recipe.name


def software(recipe: Recipe, running: str) -> str | None:
    """The backend whose own products in the recipe's format are computed in software here; None where units do."""
    if running not in ("tensorflow", "jax") or recipe.as_is:
        return None
    return backend.NAMES[running] if support(recipe.compute, running)["kind"] == "emulated" else None


def _refuse_what_is_pytorchs(options: Options, name: str) -> None:
    """Raise for options that work in PyTorch alone."""
    precision = options.recipe
    sixteen = precision.compute in ("bf16", "fp16")
    if precision.only_emulated:
        raise Unsupported(
            f"Precision {precision.name} cannot run here: halfstep emulates it in PyTorch, not in {name}."
        )
    if options.run.products == "fp32" and sixteen:
        raise Unsupported(
            f"--products fp32 is for PyTorch: {name} computes {precision.compute} products itself; "
            "leave the option away."
        )
    if options.run.as_on is not None and sixteen:
        raise Unsupported(
            f"--as-on {options.run.as_on} is for PyTorch: in Keras every layer has a policy, which is the same on "
            "every device; leave the option away."
        )
    if options.watch:
        raise Unsupported(f"A diagnosis looks into PyTorch, not into {name}; set KERAS_BACKEND to torch.")
