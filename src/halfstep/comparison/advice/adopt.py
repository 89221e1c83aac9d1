"""The lines that make a precision permanent, in the framework that the script uses.

Every entry of :data:`OWN_WORDS` runs what the trial ran, with the framework's own features. Where the framework has
none (most have no fp16 on a CPU, none has recipes with options), only halfstep's line is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfstep.precisions.recipes import Recipe, parse
from halfstep.record.events import Takeover

_ONE_LINE = 'import halfstep; halfstep.enable("{recipe}")   # the first line of the script'


@dataclass(frozen=True)
class Script:
    """What is known about the script that the lines are for."""

    framework: str = "pytorch"  #: what drives its training: a key of :data:`OWN_WORDS`
    device: str = "cpu"  #: ``cpu`` or the accelerator's type
    clipping: str | None = None  #: how it clips gradients, ``norm`` or ``value``; None if it does not
    passes: int = 1  #: backward passes per step; more than one is accumulation
    #: whether it trains with an optimizer of Keras's in its own loop, without compile and fit
    loop: bool = False
    #: the 16-bit format of the weights that it loads or makes itself; empty where they are wider
    held: str = ""

    @classmethod
    def of(cls, takeover: Takeover, own_precision: Sequence[str] = ()) -> Script:
        """From a record's ``takeover`` events, and its words for the script's own precision."""
        return cls(
            takeover.get("framework", "pytorch"),
            takeover.get("device", "cpu"),
            takeover.get("clipping"),
            takeover.get("passes", 1),
            takeover.get("loop", False),
            next((name for name in ("bf16", "fp16") if f"{name} weights" in own_precision), ""),
        )


def adopt(precision: str, script: Script, in_fp32_units: bool = False) -> str:
    """Python lines that put ``precision`` into force in ``script`` for good.

    Args:
        precision: a recipe's text.
        script: what the lines are for.
        in_fp32_units: whether its products ran in fp32 units, a feature that only halfstep has.
    """
    recipe = parse(precision)
    own = own_words(precision, script)
    if recipe == Recipe("fp32") and own is not None:
        return own
    one = _ONE_LINE.format(recipe=recipe)
    if own is None:
        return one
    title = (
        "# or by hand:"
        if script.framework == "pytorch"
        else f"# or in {_NAMES[script.framework]}'s own words:"
    )
    if in_fp32_units:
        title += f" (slow here: this CPU has no {recipe.compute} units, and its products in fp32 units are halfstep's)"
    return f"{one}\n\n{title}\n{own}"


def own_words(precision: str, script: Script) -> str | None:
    """The framework's own lines for ``precision``; None where the framework cannot do the same."""
    recipe = parse(precision)
    words = OWN_WORDS.get(script.framework, {}).get(recipe.name)
    lines = words(script) if words is not None and str(recipe) == recipe.name else None
    if lines is None or not script.held or recipe.weights != "fp32" or script.framework not in _HOLD_MODELS:
        return lines
    return f"{_WIDEN.format(held=script.held)}\n{lines}"


Words = Callable[[Script], str | None]

#: the frameworks whose scripts make a PyTorch module, which may hold its weights in 16 bits
_HOLD_MODELS = ("pytorch", "lightning", "fabric", "transformers", "accelerate")
_WIDEN = "model.float()   # its weights are {held}; or load them with dtype=torch.float32; before its optimizer is made"

_NAMES = {
    "pytorch": "PyTorch",
    "lightning": "Lightning",
    "fabric": "Fabric",
    "transformers": "Transformers",
    "accelerate": "Accelerate",
    "deepspeed": "DeepSpeed",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
}

_TF32 = 'torch.set_float32_matmul_precision("high")\ntorch.backends.cudnn.allow_tf32 = True'
_FP32 = 'torch.set_float32_matmul_precision("highest")\ntorch.backends.cudnn.allow_tf32 = False'


def _always(text: str, more: str = "") -> Words:
    """The same lines on every device: ``more``, then ``text``."""
    return lambda script: f"{more}\n{text}" if more else text


def _not_on_cpu(text: str, on_cpu: str | None = None) -> Words:
    """``text``; on a CPU, where the framework silently runs something else, ``on_cpu``, or None if nothing does it."""
    return lambda script: on_cpu if script.device == "cpu" else text


def _amp_loop(dtype: str, scaled: bool) -> Words:
    """PyTorch's AMP loop with the clipping and the accumulation that the script was seen to do."""

    def loop(script: Script) -> str:
        lines = [f'scaler = torch.amp.GradScaler("{script.device}")   # before the loop'] if scaled else []
        step = _stepping(scaled, script.clipping)
        share = f" / {script.passes}" if script.passes > 1 else ""
        lines += [
            f'with torch.autocast("{script.device}", dtype=torch.{dtype}):',
            f"    loss = loss_fn(model(inputs), targets){share}",
            "scaler.scale(loss).backward()" if scaled else "loss.backward()",
        ]
        if script.passes > 1:
            lines.append(f"if (batch + 1) % {script.passes} == 0:   # batch: how many came before this one")
            step = [f"    {line}" for line in step]
        return "\n".join(lines + step)

    return loop


def _stepping(scaled: bool, clipping: str | None) -> list[str]:
    clip = {
        None: [],
        "norm": ["torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)"],
        "value": ["torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)"],
    }[clipping]
    if not scaled:
        return [*clip, "optimizer.step()", "optimizer.zero_grad()"]
    unscale = ["scaler.unscale_(optimizer)   # clip true gradients"] if clip else []
    return [*unscale, *clip, "scaler.step(optimizer)", "scaler.update()", "optimizer.zero_grad()"]


_PLUGIN = """\
# Lightning's own precision="16-mixed" runs bf16 on a CPU; this plugin runs fp16.
import halfstep.lightning
trainer = Trainer(plugins=[halfstep.lightning.MixedPrecision("fp16")])   # beside your other arguments"""

_TRAINER = 'trainer = Trainer(precision="{}")   # beside your other arguments'
_FABRIC = 'fabric = Fabric(precision="{}")   # beside your other arguments'
_ACCELERATOR = 'accelerator = Accelerator(mixed_precision="{}")   # beside your other arguments'
_DEEPSPEED = """\
for own in ("bf16", "fp16", "torch_autocast"):
    ds_config.pop(own, None)   # in DeepSpeed's configuration"""
_POLICY = 'keras.config.set_dtype_policy("{}")   # before the first layer is made'

_KERAS_LOOP = """\
optimizer = keras.optimizers.LossScaleOptimizer(optimizer)   # clips by the global_clipnorm of the inner one
with tf.GradientTape() as tape:
    scaled = optimizer.scale_loss(loss_fn(targets, model(inputs, training=True)))
gradients = tape.gradient(scaled, model.trainable_variables)   # scaled too
optimizer.apply(gradients, model.trainable_variables)   # unscales, and skips what is not finite"""


def _arguments(flags: str) -> Words:
    """On a CPU, TrainingArguments refuses bf16 without ``use_cpu``."""
    note = "   # beside your other arguments"
    return lambda script: (
        f"arguments = TrainingArguments({flags}{', use_cpu=True' if script.device == 'cpu' else ''}){note}"
    )


#: framework -> recipe -> the framework's own lines; it has none for other recipes
OWN_WORDS: dict[str, dict[str, Words]] = {
    "pytorch": {
        "fp32": _always(_FP32),
        "tf32": _always(_TF32),
        "bf16": _amp_loop("bfloat16", scaled=False),
        "fp16": _amp_loop("float16", scaled=True),
    },
    "lightning": {
        "fp32": _always(_TRAINER.format("32-true"), _FP32),
        "tf32": _always(_TRAINER.format("32-true"), _TF32),
        "bf16": _always(_TRAINER.format("bf16-mixed")),
        "fp16": _not_on_cpu(_TRAINER.format("16-mixed"), _PLUGIN),
        "bf16-true": _always(_TRAINER.format("bf16-true")),
    },
    "fabric": {
        "fp32": _always(_FABRIC.format("32-true"), _FP32),
        "tf32": _always(_FABRIC.format("32-true"), _TF32),
        "bf16": _always(_FABRIC.format("bf16-mixed")),
        "fp16": _not_on_cpu(_FABRIC.format("16-mixed")),
        "bf16-true": _always(_FABRIC.format("bf16-true")),
    },
    "transformers": {
        "fp32": _arguments("bf16=False, fp16=False, tf32=False"),
        "tf32": _arguments("bf16=False, fp16=False, tf32=True"),
        "bf16": _arguments("bf16=True"),
        "fp16": lambda script: None if script.device == "cpu" else _arguments("fp16=True")(script),
    },
    "accelerate": {
        "fp32": _always(_ACCELERATOR.format("no"), _FP32),
        "tf32": _always(_ACCELERATOR.format("no"), _TF32),
        "bf16": _always(_ACCELERATOR.format("bf16")),
        "fp16": _not_on_cpu(_ACCELERATOR.format("fp16")),
    },
    "deepspeed": {
        # Its torch_autocast communicates gradients in 16 bits, its bf16 and fp16 hold weights in them.
        "fp32": _always(_DEEPSPEED, _FP32),
        "tf32": _always(_DEEPSPEED, _TF32),
    },
    "keras": {
        "fp32": _always(_POLICY.format("float32")),
        "bf16": _always(_POLICY.format("mixed_bfloat16")),
        # compile() adds the loss scale; a loop with PyTorch's or JAX's gradients has no loss scale
        "fp16": lambda script: None if script.loop else _POLICY.format("mixed_float16"),
        "bf16-true": _always(_POLICY.format("bfloat16")),
    },
    "tensorflow": {
        "fp32": _always(_POLICY.format("float32")),
        "bf16": _always(_POLICY.format("mixed_bfloat16")),
        "fp16": _always(_KERAS_LOOP, _POLICY.format("mixed_float16")),
    },
}
