"""The lines to adopt run what the trial ran, pasted into a script of their framework."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halfstep.comparison.advice.adopt import OWN_WORDS, Script, adopt, own_words
from halfstep.record.events import Takeover

from .conftest import PROGRAMS

ON_CPU = [
    (framework, recipe)
    for framework in ("pytorch", "lightning", "fabric", "accelerate", "transformers")
    for recipe in OWN_WORDS[framework]
    if recipe != "tf32"
]
HABITS = {"plain": Script(), "both": Script(clipping="norm", passes=2), "value": Script(clipping="value")}


#: the lines with which a script of each framework begins, before anything is adopted
UNCHANGED = {
    "pytorch": "loss = loss_fn(model(inputs), targets)\nloss.backward()\noptimizer.step()\noptimizer.zero_grad()",
    "lightning": "trainer = Trainer()",
    "fabric": "fabric = Fabric()",
    "accelerate": "accelerator = Accelerator()",
    "transformers": "arguments = TrainingArguments()",
}


def lines_of(framework: str, recipe: str, habits: Script) -> str | None:
    return own_words(recipe, Script(framework, "cpu", habits.clipping, habits.passes))


def run(tmp_path: Path, wanted: list[Any], first: str = "", recipe: str | None = None) -> list[Any]:
    """What adopted.py found: [framework, recipe, FLOPs of the products by dtype] for each of ``wanted``."""
    for module in ("lightning", "accelerate", "transformers"):
        pytest.importorskip(module)
    (tmp_path / "lines").write_text(json.dumps(wanted))
    halfstep = [] if recipe is None else ["-m", "halfstep", "run", "--precision", recipe]
    done = subprocess.run(
        [sys.executable, *halfstep, str(PROGRAMS / "adopted.py"), "lines", first],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.split("found ")[1])
    assert len(found) == len(wanted)
    return found


def unchanged(recipe: str) -> list[list[str]]:
    return [[framework, recipe, lines] for framework, lines in UNCHANGED.items()]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """The trial: every framework's script, unchanged, under a recipe."""

    @functools.cache
    def trial(recipe: str) -> list[Any]:
        return run(tmp_path_factory.mktemp("trial"), unchanged(recipe), recipe=recipe)

    return trial


Trials = Callable[[str], list[Any]]


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["fp16", "bf16:keep=*[2d]"])
def test_the_one_line_runs_what_the_trial_ran(tmp_path: Path, trials: Trials, recipe: str) -> None:
    """FLOPs by dtype, to the last product, in every framework; the last layer is kept where the recipe says so."""
    (line, *_) = adopt(recipe, Script()).splitlines()
    found = run(tmp_path, unchanged(recipe), first=line)
    assert found == trials(recipe)
    for framework, _, flops in found:
        # A module that Fabric and Accelerate have prepared is known by the names inside of it, as in the script.
        assert flops.keys() == ({"bf16", "fp32"} if "keep" in recipe else {"fp16"}), framework


@pytest.mark.long
def test_every_snippet_runs_in_the_dtype_that_it_is_for(tmp_path: Path, trials: Trials) -> None:
    wanted = [(f, r, lines_of(f, r, HABITS["plain"])) for f, r in ON_CPU]
    wanted += [("pytorch", r, lines_of("pytorch", r, h)) for r in ("bf16", "fp16") for h in HABITS.values()]
    wanted = [row for row in wanted if row[2] is not None and row[:2] != ("pytorch", "fp32")]
    for framework, recipe, flops in run(tmp_path, wanted):
        assert flops.keys() == {recipe.removesuffix("-true")}, (framework, recipe)
        if recipe in ("bf16", "fp16"):
            assert flops == next(row[2] for row in trials(recipe) if row[0] == framework), (framework, recipe)


@pytest.mark.parametrize("framework", ["pytorch", "lightning", "fabric", "accelerate", "transformers"])
@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_weights_that_the_script_loads_in_16_bits_become_fp32(framework: str, recipe: str) -> None:
    """No framework's flag for a precision widens them: with its lines alone the script trains bf16 weights."""
    script = Script.of(Takeover(framework=framework), ["autocast", "bf16 weights"])
    assert "model.float()   # its weights are bf16;" in adopt(recipe, script)
    model, held = torch.nn.Linear(4, 4).bfloat16(), torch.nn.Linear(4, 4)
    held.load_state_dict(model.state_dict())
    exec(str(own_words(recipe, script)).splitlines()[0], {"model": model})
    assert model.weight.dtype is torch.float32
    assert torch.equal(model.weight, held.weight)
    assert (own_words("bf16-true", script) or "").count("float()") == 0


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
    code = adopt("fp16", Script(), in_fp32_units=True)
    assert "slow here: this CPU has no fp16 units" in code
    assert "slow here" not in adopt("fp16", Script())


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


@pytest.mark.parametrize("precision", ["bf16-lean", "bf16-sr:states=bf16"])
def test_weights_that_are_fp32_for_a_step_are_halfsteps_own(precision: str) -> None:
    for framework in OWN_WORDS:
        assert adopt(precision, Script(framework)) == (
            f'import halfstep; halfstep.enable("{precision}")   # the first line of the script'
        )
