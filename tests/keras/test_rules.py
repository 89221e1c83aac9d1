"""Rules that need no framework, and sentences for what cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfstep.keras.units import cpu_support, gpu_support

from ..cli.running import halfstep, python
from .conftest import skip_without


@pytest.mark.parametrize(
    ("precision", "flags", "kind"),
    [
        ("fp32", (), "native"),
        ("tf32", ("amx_bf16",), "impossible"),
        ("bf16", ("avx512f", "avx512_bf16"), "native"),
        ("bf16", ("avx512f",), "emulated"),
        ("fp16", ("avx512_bf16", "amx_bf16"), "emulated"),
        ("fp16", ("avx512_fp16",), "native"),
    ],
)
def test_cpu_support(precision: str, flags: tuple[str, ...], kind: str) -> None:
    assert cpu_support(precision, frozenset(flags)).kind == kind


@pytest.mark.parametrize(
    ("precision", "capability", "kind"),
    [
        ("tf32", (8, 0), "native"),
        ("tf32", (7, 5), "impossible"),
        ("bf16", (7, 5), "emulated"),
        ("fp16", (7, 0), "native"),
        ("fp16", (6, 1), "emulated"),
        ("tf32", None, "impossible"),
        ("bf16", None, "native"),
    ],
)
def test_gpu_support(precision: str, capability: tuple[int, int] | None, kind: str) -> None:
    assert gpu_support(precision, capability).kind == kind


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        (
            "keras",
            "2.15.0",
            "keras 2.15.0 is too old for halfstep, which takes over keras 3.15 or later; "
            "run `pip install 'keras>=3.15'`.",
        ),
        (
            "tf_keras",
            "2.16.0",
            "tf_keras 2.16.0 is Keras 2, which halfstep does not take over; unset TF_USE_LEGACY_KERAS, or use keras 3.",
        ),
        (
            "torch",
            "2.4.1",
            "torch 2.4.1 is too old for halfstep, which takes over torch 2.11 or later; "
            "run `pip install 'torch>=2.11'`.",
        ),
    ],
)
def test_a_version_that_is_too_old_gets_one_sentence(
    name: str, version: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text(f"__version__ = {version!r}\n")
    script = tmp_path / "script.py"
    script.write_text(f"import {name}\n")
    done = halfstep("run", "--precision", "bf16", str(script))
    assert (done.returncode, done.stderr) == (2, f"halfstep: {sentence}\n")


@pytest.mark.parametrize(("module", "name"), [("tensorflow", "TensorFlow"), ("jax", "JAX")])
def test_a_program_that_uses_a_backend_alone_is_told_so(module: str, name: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(f"import {module}\n")
    done = halfstep("run", "--precision", "bf16", str(script))
    assert done.stderr == (
        f"halfstep: the program trained with {name} alone, without Keras, whose layers and optimizers are what "
        f"halfstep takes over in {name}: precision bf16 was not put into force\n"
    )


def test_gradients_of_jax_alone_are_refused_before_they_are_computed(tmp_path: Path) -> None:
    (tmp_path / "jax.py").write_text("def grad(f):\n    return lambda x: print('trained')\n")
    script = tmp_path / "script.py"
    script.write_text("import jax\nstep = jax.grad(abs)\nprint('made')\nstep(1.0)\n")
    done = halfstep("run", "--precision", "bf16", str(script))
    assert (done.returncode, done.stdout) == (2, "made\n")
    assert done.stderr == (
        "halfstep: The program computes gradients with JAX alone, without Keras, so precision bf16 cannot be put into "
        "force; train with Keras on JAX, or use --precision as-is.\n"
    )
    assert halfstep("run", "--precision", "fp32", str(script)).stdout == "made\ntrained\n"


def test_a_backend_that_is_not_taken_over_gets_one_sentence(tmp_path: Path) -> None:
    skip_without("keras")
    script = tmp_path / "script.py"
    script.write_text("import keras\n")
    done = halfstep("run", "--precision", "bf16", str(script), env={"KERAS_BACKEND": "numpy"})
    assert (done.returncode, done.stderr) == (
        2,
        "halfstep: Keras runs on numpy here, where halfstep cannot put a precision into force; set KERAS_BACKEND to "
        "tensorflow, torch or jax.\n",
    )


def test_products_in_fp32_units_are_pytorchs(tmp_path: Path) -> None:
    skip_without("keras", "jax")
    script = tmp_path / "script.py"
    script.write_text("import keras\n")
    done = halfstep(
        "run", "--precision", "bf16", "--products", "fp32", str(script), env={"KERAS_BACKEND": "jax"}
    )
    assert (done.returncode, done.stderr) == (
        2,
        "halfstep: --products fp32 is for PyTorch: JAX computes bf16 products itself; leave the option away.\n",
    )


def test_the_rules_import_no_framework() -> None:
    code = "import sys, halfstep.keras.capabilities as c; print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    assert python("-c", code).stdout == "False False\n"


def test_keras_on_another_backend_does_not_import_pytorch(tmp_path: Path) -> None:
    skip_without("keras", "jax")
    script = tmp_path / "script.py"
    script.write_text("import sys, keras\nprint('torch' in sys.modules, keras.config.dtype_policy().name)\n")
    done = halfstep("run", "--precision", "bf16", str(script), env={"KERAS_BACKEND": "jax"})
    assert done.stdout == "False mixed_bfloat16\n", done.stderr


def test_what_the_user_should_know_is_said_while_the_program_runs(tmp_path: Path) -> None:
    skip_without("keras", "jax")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, keras\n"
        "path = os.path.join(os.path.dirname(__file__), 'model.keras')\n"
        "if os.path.exists(path):\n"
        "    keras.saving.load_model(path)\n"
        "else:\n"
        "    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)\n"
    )
    assert python(str(script), env={"KERAS_BACKEND": "jax"}).returncode == 0
    done = halfstep("run", "--precision", "bf16-true", str(script), env={"KERAS_BACKEND": "jax"})
    assert done.stderr.splitlines()[0] == (
        "halfstep: warning: weights of a model that was loaded stay in float32, as they were saved"
    ), done.stderr


def test_weights_with_a_remainder_are_refused(tmp_path: Path) -> None:
    skip_without("keras", "jax")
    script = tmp_path / "script.py"
    script.write_text("import keras\n")
    done = halfstep("run", "--precision", "bf16-lean", str(script), env={"KERAS_BACKEND": "jax"})
    assert done.returncode == 2
    assert done.stderr == (
        "halfstep: Precision bf16-lean cannot run here: halfstep leads PyTorch's optimizers, not Keras's; use --precision "
        "bf16.\n"
    )


def test_enable_after_a_layer_was_made_is_refused_and_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("keras", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    script = tmp_path / "script.py"
    script.write_text(
        "import keras, halfstep\n"
        "if 'late' in __import__('sys').argv:\n"
        "    keras.layers.Dense(1)\n"
        "halfstep.enable('bf16')\n"
        "print(keras.layers.Dense(1).compute_dtype)\n"
    )
    assert python(str(script)).stdout == "bfloat16\n"
    late = python(str(script), "late")
    assert late.stderr.splitlines()[-1] == (
        "halfstep.errors.UsageError: halfstep.enable() came after 'dense' was made; "
        "make it the first line of the program."
    )
