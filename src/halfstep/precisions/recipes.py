"""Precisions: which format each part of training uses, and how the loss is scaled.

A recipe is a frozen value, and its string is its grammar::

    recipe  = name { ":" option }
    option  = "loss_scale=" ( power of two | "dynamic" ) | "init_scale=" power | "growth_interval=" steps
            | "keep=" pattern { "," pattern } | "skip_nonfinite" | "states=" ( "bf16" | "8bit" )

``parse(str(recipe)) == recipe`` for every recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from halfstep.errors import UsageError
from halfstep.precisions.loss_scale import DynamicScale, LossScale, NoScale, StaticScale, power_of_two


@dataclass(frozen=True)
class _Row:
    """A precision's formats by name."""

    weights: str
    compute: str
    dynamic: bool = False
    gradients: str | None = None  #: of the gradients that go into products, where it is another
    remainder: bool = False  #: whether the bits of fp32 weights that 16-bit ones lack are kept beside them
    #: whether fp32 weights are rounded up or down at random to 16-bit ones after each step
    stochastic: bool = False


#: Under ``as-is`` the script decides. fp8 is the hybrid of Micikevicius et al. 2022 (arXiv 2209.05433): E4M3's digits
#: forward, E5M2's range for gradients; mxfp6 does likewise. The other block formats scale finely enough for one.
_PRECISIONS: dict[str, _Row] = {
    "as-is": _Row("as-is", "as-is"),
    "fp32": _Row("fp32", "fp32"),
    "tf32": _Row("fp32", "tf32"),
    "bf16": _Row("fp32", "bf16"),
    "fp16": _Row("fp32", "fp16", dynamic=True),
    "bf16-true": _Row("bf16", "bf16"),
    "bf16-lean": _Row("bf16", "bf16", remainder=True),
    "bf16-sr": _Row("bf16", "bf16", stochastic=True),
    "fp16-true": _Row("fp16", "fp16", dynamic=True),
    "fp8": _Row("fp32", "fp8_e4m3", gradients="fp8_e5m2"),
    "fp8-e4m3": _Row("fp32", "fp8_e4m3"),
    "fp8-e5m2": _Row("fp32", "fp8_e5m2"),
    "mxfp8": _Row("fp32", "mxfp8_e4m3"),
    "mxfp6": _Row("fp32", "mxfp6_e2m3", gradients="mxfp6_e3m2"),
    "mxfp4": _Row("fp32", "mxfp4"),
    "nvfp4": _Row("fp32", "nvfp4"),
}

#: formats that PyTorch trains in, here or on some device
_TRAINED = ("fp32", "tf32", "bf16", "fp16")

PRECISIONS: tuple[str, ...] = tuple(_PRECISIONS)

SYNONYMS: dict[str, str] = {
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "tensorfloat32": "tf32",
    "bf16-mixed": "bf16",
    "mixed_bfloat16": "bf16",
    "16": "fp16",
    "16-mixed": "fp16",
    "mixed_float16": "fp16",
}

#: formats that an optimizer's state can have between steps
STATES = ("fp32", "bf16", "8bit")

_EXAMPLES = "for example fp16:loss_scale=1024 or bf16:keep=*.norm,lm_head"


@dataclass(frozen=True)
class Recipe:
    """One precision with its options."""

    name: str  #: the precision, one of :data:`PRECISIONS`
    loss_scale: LossScale = field(default_factory=NoScale)  #: where the loss scale starts and how it moves
    keep: tuple[str, ...] = ()  #: name patterns (``fnmatch``) of modules that compute in fp32
    skip_nonfinite: bool = False  #: skip steps with gradients that are not finite although nothing is scaled
    #: the format of the optimizers' state, one of :data:`STATES`; another than fp32 where :attr:`lean`
    states: str = "fp32"

    @property
    def as_is(self) -> bool:
        """Whether the script's own precision stays in force."""
        return self.name == "as-is"

    @property
    def _row(self) -> _Row:
        return _PRECISIONS[self.name]

    @property
    def weights(self) -> str:
        """The format that weights are stored in: ``fp32``, ``bf16`` or ``fp16``."""
        return self._row.weights

    @property
    def compute(self) -> str:
        """The format of matrix products' operands, e.g. ``fp32``, ``bf16`` or ``fp8_e4m3``."""
        return self._row.compute

    @property
    def gradients(self) -> str:
        """The format of the gradients that matrix products are given in the backward pass."""
        return self._row.gradients or self.compute

    @property
    def only_emulated(self) -> bool:
        """Whether PyTorch trains in this format nowhere: it can only be emulated."""
        return not self.as_is and self.compute not in _TRAINED

    @property
    def described(self) -> str:
        """The name, with both formats where forward and backward differ: ``fp8 (e4m3 forward, e5m2 backward)``."""
        if self.gradients == self.compute:
            return self.name
        forward, backward = (name.split("_")[-1] for name in (self.compute, self.gradients))
        return f"{self.name} ({forward} forward, {backward} backward)"

    @property
    def mixed(self) -> bool:
        """Whether products use 16 bits, and everything that needs fp32 is fp32: weights are, or an optimizer's are."""
        return (self.weights == "fp32" or self.lean) and self.compute in ("bf16", "fp16")

    @property
    def remainder(self) -> bool:
        """Whether weights are 16-bit with a remainder beside them, together exactly fp32."""
        return self._row.remainder

    @property
    def stochastic(self) -> bool:
        """Whether weights are 16-bit alone, rounded up or down at random after each step."""
        return self._row.stochastic

    @property
    def lean(self) -> bool:
        """Whether weights are 16-bit between steps, and fp32 for the time of an optimizer's step."""
        return self.remainder or self.stochastic

    @property
    def guards(self) -> bool:
        """Whether a step with gradients that are not finite is skipped."""
        return self.loss_scale.guards or self.skip_nonfinite

    def __str__(self) -> str:
        return ":".join((self.name, *_options(self)))


def _default_scale(name: str) -> LossScale:
    return DynamicScale() if _PRECISIONS[name].dynamic else NoScale()


def _options(recipe: Recipe) -> Iterable[str]:
    scale, default = recipe.loss_scale, _default_scale(recipe.name)
    if isinstance(scale, StaticScale):
        yield f"loss_scale={scale.value:.17g}"
    elif isinstance(scale, DynamicScale) and scale != default:
        start = DynamicScale()
        if isinstance(default, NoScale):
            yield "loss_scale=dynamic"
        if scale.value != start.value:
            yield f"init_scale={scale.value:.17g}"
        if scale.interval != start.interval:
            yield f"growth_interval={scale.interval}"
    if recipe.keep:
        yield "keep=" + ",".join(recipe.keep)
    if recipe.skip_nonfinite:
        yield "skip_nonfinite"
    if recipe.states != "fp32":
        yield f"states={recipe.states}"


def parse(text: str) -> Recipe:
    """Read a recipe such as ``fp16``, ``fp16:loss_scale=1024`` or ``bf16:keep=*.norm,lm_head``.

    Raises:
        UsageError: an unknown precision or option, or a value out of range; the message lists what is allowed.
    """
    head, *options = text.strip().split(":")
    name = canonical_name(head)
    recipe = Recipe(name, _default_scale(name))
    seen: set[str] = set()
    for option in options:
        key, _, value = option.partition("=")
        if key in seen:
            raise UsageError(f"Precision {text!r} gives the option {key!r} twice; give it once.")
        seen.add(key)
        recipe = _with_option(recipe, text, key, value)
    return recipe


def canonical_name(head: str) -> str:
    """The precision's own name for a name or synonym.

    Raises:
        UsageError: no such precision; the message lists those that exist.
    """
    name = SYNONYMS.get(head, head)
    if name not in _PRECISIONS:
        raise UsageError(
            f"Unknown precision {head!r}; choose one of {', '.join(PRECISIONS)} "
            f"(synonyms: {', '.join(SYNONYMS)}), with options, {_EXAMPLES}."
        )
    return name


def _with_option(recipe: Recipe, text: str, key: str, value: str) -> Recipe:
    apply = _APPLY.get(key)
    if apply is None:
        raise UsageError(
            f"Unknown option {key!r} in precision {text!r}; allowed are {', '.join(_APPLY)}, {_EXAMPLES}."
        )
    if recipe.as_is:
        raise UsageError(f"Precision 'as-is' takes no options, but {text!r} gives {key!r}; remove it.")
    if key == "keep" and recipe.only_emulated:
        raise UsageError(
            f"Option 'keep' in {text!r} needs bf16 or fp16: {recipe.name} is emulated for every product."
        )
    if recipe.lean and key in ("loss_scale", "init_scale", "growth_interval"):
        raise UsageError(
            f"Option {key!r} in {text!r} scales the loss, which {recipe.name} never does: bf16 has the range of fp32; "
            "remove it."
        )
    if key == "keep" and recipe.compute not in ("bf16", "fp16"):
        raise UsageError(
            f"Option 'keep' in {text!r} needs a 16-bit precision: {recipe.name} already keeps fp32."
        )
    return apply(recipe, text, value)


def _number(text: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"Option {key!r} in {text!r} is {value!r}; it must be a number.") from None


def _loss_scale(recipe: Recipe, text: str, value: str) -> Recipe:
    if value == "dynamic":
        scale = recipe.loss_scale
        return replace(recipe, loss_scale=scale if isinstance(scale, DynamicScale) else DynamicScale())
    try:
        number = float(value)
    except ValueError:
        raise UsageError(
            f"Option 'loss_scale' in {text!r} is {value!r}; it must be a power of two such as 1024, or 'dynamic'."
        ) from None
    return replace(recipe, loss_scale=StaticScale(power_of_two(number, "loss_scale")))


def _dynamic(recipe: Recipe, text: str, key: str) -> DynamicScale:
    if not isinstance(recipe.loss_scale, DynamicScale):
        raise UsageError(
            f"Option {key!r} in {text!r} needs a dynamic loss scale; write {recipe.name}:loss_scale=dynamic:{key}=…."
        )
    return recipe.loss_scale


def _init_scale(recipe: Recipe, text: str, value: str) -> Recipe:
    scale = _dynamic(recipe, text, "init_scale")
    return replace(recipe, loss_scale=replace(scale, value=_number(text, "init_scale", value)))


def _growth_interval(recipe: Recipe, text: str, value: str) -> Recipe:
    if not re.fullmatch("[0-9]{1,15}", value):
        raise UsageError(
            f"Option 'growth_interval' in {text!r} is {value!r}; it must be a whole number of steps."
        )
    scale = _dynamic(recipe, text, "growth_interval")
    return replace(recipe, loss_scale=replace(scale, interval=int(value)))


def _keep(recipe: Recipe, text: str, value: str) -> Recipe:
    patterns = tuple(part.strip() for part in value.split(","))
    if not all(patterns):
        raise UsageError(f"Option 'keep' in {text!r} has an empty pattern; write keep=*.norm,lm_head.")
    return replace(recipe, keep=patterns)


def _skip_nonfinite(recipe: Recipe, text: str, value: str) -> Recipe:
    if value:
        raise UsageError(f"Option 'skip_nonfinite' in {text!r} takes no value; write just skip_nonfinite.")
    return replace(recipe, skip_nonfinite=True)


def _states(recipe: Recipe, text: str, value: str) -> Recipe:
    if not recipe.lean:
        raise UsageError(
            f"Option 'states' in {text!r} needs a precision under which halfstep leads the optimizer; write "
            "bf16-lean:states=bf16 or bf16-sr:states=bf16."
        )
    if value not in STATES:
        allowed = f"{', '.join(STATES[:-1])} or {STATES[-1]}"
        raise UsageError(f"Option 'states' in {text!r} is {value!r}; it must be {allowed}.")
    return replace(recipe, states=value)


#: the options; :func:`_options` writes what these read
_APPLY: dict[str, Callable[[Recipe, str, str], Recipe]] = {
    "loss_scale": _loss_scale,
    "init_scale": _init_scale,
    "growth_interval": _growth_interval,
    "keep": _keep,
    "skip_nonfinite": _skip_nonfinite,
    "states": _states,
}


def parse_list(text: str) -> tuple[Recipe, ...]:
    """Read several recipes separated by commas, e.g. ``fp32,bf16:keep=*.norm,lm_head,fp16``.

    A part that is no precision's name belongs to the list option before it (``keep``).

    Raises:
        UsageError: as :func:`parse`, or the same recipe twice.
    """
    parts: list[str] = []
    for part in text.split(","):
        head = part.strip().split(":")[0]
        known = SYNONYMS.get(head, head) in _PRECISIONS
        if parts and not known and "keep=" in parts[-1].rsplit(":", 1)[-1]:
            parts[-1] += "," + part.strip()
        else:
            parts.append(part.strip())
    recipes = tuple(parse(part) for part in parts)
    for recipe in recipes:
        if recipes.count(recipe) > 1:
            raise UsageError(f"Precision {str(recipe)!r} is listed twice in {text!r}; list each once.")
    return recipes
