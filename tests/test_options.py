"""Every option of a run reaches it by each road: the command line, a child's command line, and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from halfstep.cli import compare, diagnose
from halfstep.cli.run import run
from halfstep.options import DEFAULTS, RunOptions
from halfstep.trials import Job, Trial

GIVEN = [
    DEFAULTS,
    RunOptions(steps=3, products="native", emulate=True, as_on="cuda"),
    RunOptions(products="fp32"),
    RunOptions(emulate=True),
]


@pytest.mark.parametrize("options", GIVEN)
def test_a_trial_is_run_with_the_options_of_its_command(options: RunOptions) -> None:
    command = Job("train.py", ("--steps", "9"), False, Path("/out"), options).command(Trial("bf16", 1, 2))
    context = run.make_context("run", command[command.index("run") + 1 :])
    assert RunOptions(**{f.name: context.params[f.name] for f in fields(RunOptions)}) == options
    assert context.params["args"] == ("--steps", "9")
    assert [context.params[name] for name in ("precision", "seed", "repeat")] == ["bf16", 1, 2]


@pytest.mark.parametrize("options", GIVEN)
def test_json_gives_them_back(options: RunOptions) -> None:
    assert RunOptions.from_json(json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize("name", [f.name for f in fields(RunOptions)])
@pytest.mark.parametrize("wrong", ["seven", -1, 1.5, [], {}, 2**80])
def test_json_of_another_type_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"its {name} is damaged"):
        RunOptions.from_json({name: wrong})


@pytest.mark.parametrize("command", [run, compare.compare, diagnose.diagnose])
def test_every_command_has_every_option(command: Any) -> None:
    assert {f.name for f in fields(RunOptions)} <= {parameter.name for parameter in command.params}
