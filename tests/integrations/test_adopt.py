"""The lines to adopt run what the trial ran, pasted into a script of their framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from halfstep.comparison.adopt import OWN_WORDS, Script, adopt, own_words

from .conftest import PROGRAMS

ON_CPU = [
    (framework, recipe)
    for framework in ("pytorch", "lightning", "fabric", "accelerate", "transformers")
    for recipe in OWN_WORDS[framework]
    if recipe != "tf32"
]
HABITS = {"plain": Script(), "both": Script(clipping="norm", passes=2), "value": Script(clipping="value")}


def lines_of(framework: str, recipe: str, habits: Script) -> str | None:
    return own_words(recipe, Script(framework, "cpu", habits.clipping, habits.passes))


@pytest.mark.slow
def test_every_snippet_runs_in_the_dtype_that_it_is_for(tmp_path: Path) -> None:
    for module in ("lightning", "accelerate", "transformers"):
        pytest.importorskip(module)
    wanted = [(f, r, lines_of(f, r, HABITS["plain"])) for f, r in ON_CPU]
    wanted += [("pytorch", r, lines_of("pytorch", r, h)) for r in ("bf16", "fp16") for h in HABITS.values()]
    wanted = [row for row in wanted if row[2] is not None and row[:2] != ("pytorch", "fp32")]
    (tmp_path / "lines").write_text(json.dumps(wanted))
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "adopted.py"), "lines"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("found ")[1])
    assert len(found) == len(wanted)
    for framework, recipe, flops in found:
        assert flops.keys() == {recipe.removesuffix("-true")}, (framework, recipe)


@pytest.mark.parametrize("framework", ["fabric", "accelerate", "transformers"])
def test_fp16_on_a_cpu_is_halfsteps_where_the_framework_runs_something_else(framework: str) -> None:
    code = adopt("fp16", Script(framework, "cpu"))
    assert code == 'import halfstep; halfstep.enable("fp16")   # the first line of the script'
    assert own_words("fp16", Script(framework, "cuda")) is not None


def test_lightnings_fp16_on_a_cpu_is_the_plugin() -> None:
    assert 'plugins=[halfstep.lightning.MixedPrecision("fp16")]' in adopt("fp16", Script("lightning", "cpu"))
    assert 'Trainer(precision="16-mixed")' in adopt("fp16", Script("lightning", "cuda"))


def test_the_amp_loop_unscales_before_it_clips_and_steps_when_it_has_accumulated() -> None:
    lines = (own_words("fp16", Script("pytorch", "cuda", "norm", 4)) or "").splitlines()
    order = ["GradScaler", "autocast", "/ 4", "backward", "% 4", "unscale_", "clip_grad_norm_", "scaler.step"]
    order += ["update", "zero_grad"]
    places = [next(i for i, line in enumerate(lines) if word in line) for word in order]
    assert places == sorted(places)
    plain = own_words("fp16", Script("pytorch", "cuda")) or ""
    assert "unscale_" not in plain
    assert "clip" not in plain


def test_products_in_fp32_units_are_said_to_be_halfsteps() -> None:
    code = adopt("fp16", Script(), "fp16, products in fp32 units")
    assert "slow here: this CPU has no fp16 units" in code
    assert "slow here" not in adopt("fp16", Script(), "fp16")


@pytest.mark.parametrize("framework", OWN_WORDS)
def test_every_row_is_python(framework: str) -> None:
    for device in ("cpu", "cuda"):
        for recipe in OWN_WORDS[framework]:
            compile(adopt(recipe, Script(framework, device, "norm", 2)), recipe, "exec")


def test_a_recipe_with_options_is_one_line_everywhere() -> None:
    for framework in OWN_WORDS:
        assert adopt("fp16:loss_scale=8", Script(framework)).startswith(
            'import halfstep; halfstep.enable("fp16:'
        )
        assert own_words("fp16:loss_scale=8", Script(framework)) is None
