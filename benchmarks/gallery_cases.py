"""What the gallery compares, and what others have published beside it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from comparing import ROOT

HAND = "benchmarks/programs/hand_amp.py"


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: its heading.
        program, arguments: the command.
        needs: the module that it imports.
        precisions: those compared; None: halfstep's own choice for the device.
        steps: where a trial ends; None: where the program does.
        unit, per_sample: what the table counts, and how many of them are in one sample.
        gpu: whether it is too large for a CPU.
        published: figures that others have published, each as (what, where, figure).
    """

    name: str
    program: str
    arguments: tuple[str, ...] = ()
    needs: str = "torch"
    precisions: str | None = None
    steps: int | None = None
    unit: str = "samples"
    per_sample: int = 1
    gpu: bool = False
    published: tuple[tuple[str, str, str], ...] = ()

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())

    @property
    def command(self) -> str:
        """The program and its arguments, as they are typed."""
        return " ".join((self.program, *self.arguments))

    def unavailable(self, gpu: bool) -> str:
        """Why it cannot be run here; empty if it can."""
        if self.gpu and not gpu:
            return "needs a GPU, and there is none here"
        if not (ROOT / self.program).exists():
            return f"{self.program} is not there"
        return "" if importlib.util.find_spec(self.needs) else f"{self.needs} is not installed"


GPT2 = (
    ("nanoGPT, bf16", "A100", "107k tokens/s"),
    ("llm.c, bf16", "H100", "468k tokens/s"),
    ("modded-nanogpt, bf16", "H100", "462k tokens/s"),
)
RESNET = (
    ("TF32", "A100", "938 images/s"),
    ("AMP, fp16", "A100", "2,470 images/s (2.63× TF32)"),
    ("FP32", "V100", "367 images/s"),
    ("AMP, fp16", "V100", "1,200 images/s (3.26× FP32)"),
)

#: final quality in fp32 and in mixed precision: Micikevicius et al. 2017, tables 1 to 3; top-1 % and mAP
PUBLISHED_QUALITY = (
    ("AlexNet", 56.77, 56.93),
    ("VGG-D", 65.40, 65.43),
    ("GoogLeNet", 68.33, 68.43),
    ("Inception v2", 70.03, 70.02),
    ("Inception v3", 73.85, 74.13),
    ("ResNet-50", 75.92, 76.04),
    ("Faster R-CNN", 69.1, 69.7),
    ("Multibox SSD", 76.9, 77.1),
)

EXAMPLES = (
    Case("Residual network, digits", "examples/digits_cnn.py", ("--epochs", "4"), unit="images"),
    Case("Small GPT", "examples/char_gpt.py", ("--steps", "40"), unit="tokens", per_sample=128),
    Case("Lightning, digits", "examples/lightning_digits.py", ("--epochs", "3"), needs="lightning", unit="images"),
    Case("Transformers, GPT-2", "examples/transformers_gpt2.py", ("--steps", "30"), needs="transformers"),
    Case("Keras, digits", "examples/keras_digits.py", ("--epochs", "3"), needs="keras", unit="images"),
    Case("TensorFlow loop, digits", "examples/tf_loop.py", ("--epochs", "3"), needs="tensorflow", unit="images"),
)  # fmt: skip


def by_hand(
    name: str, model: str, batch: int, unit: str, per_sample: int, steps: int,
    gpu: bool = False, published: tuple[tuple[str, str, str], ...] = (),
) -> tuple[Case, ...]:  # fmt: skip
    """The model with PyTorch's own mixed precision, bf16 and fp16: `as-is` is that loop as it stands."""
    plain = "fp32,tf32" if gpu else "fp32"
    return tuple(
        Case(f"{name}, hand-written {amp}", HAND, ("--model", model, "--amp", amp, "--batch-size", str(batch)),
             precisions=f"{plain},{amp},as-is", steps=steps, unit=unit, per_sample=per_sample, gpu=gpu,
             published=published)
        for amp in ("bf16", "fp16")
    )  # fmt: skip


def on_a_gpu(
    name: str, *arguments: str, unit: str, per_sample: int, published: tuple[tuple[str, str, str], ...]
) -> Case:
    """One comparison of all precisions, in the few minutes for which a GPU may be had; `as-is` is hand-written bf16."""
    return Case(
        f"{name}, all precisions", HAND, (*arguments, "--amp", "bf16"), precisions="fp32,tf32,bf16,fp16,as-is",
        steps=130, unit=unit, per_sample=per_sample, gpu=True, published=published,
    )  # fmt: skip


CASES = (
    *EXAMPLES,
    *by_hand("Small GPT", "tiny", 4, "tokens", 128, steps=20),
    *by_hand("Small ResNet", "resnet_tiny", 16, "images", 1, steps=40),
    *by_hand("GPT-2 124M", "gpt2", 16, "tokens", 1024, steps=100, gpu=True, published=GPT2),
    *by_hand("ResNet-50", "resnet50", 128, "images", 1, steps=100, gpu=True, published=RESNET),
    on_a_gpu(
        "GPT-2 124M", "--model", "gpt2", "--batch-size", "16", unit="tokens", per_sample=1024, published=GPT2
    ),
    on_a_gpu(
        "Compiled GPT-2 124M",
        "--model",
        "gpt2",
        "--batch-size",
        "16",
        "--compile",
        unit="tokens",
        per_sample=1024,
        published=GPT2,
    ),
    on_a_gpu(
        "ResNet-50",
        "--model",
        "resnet50",
        "--batch-size",
        "128",
        unit="images",
        per_sample=1,
        published=RESNET,
    ),
)
