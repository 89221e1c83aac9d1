"""Secrets among a program's arguments stand nowhere in a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfstep.report import diagnosis_page, page
from halfstep.report.loading import Comparison, Diagnosis
from halfstep.report.secret_values import mask

from . import test_diagnosis as diagnosed
from .sample import comparison

SECRET = "hunter2-SECRET"


@pytest.mark.parametrize(
    "given",
    [
        ["--api-key", SECRET],
        ["--token", SECRET],
        ["--hf_token=" + SECRET],
        ["--wandb-key", SECRET, "--lr", "0.1"],
        ["-password", SECRET],
        ["wandb.api_key=" + SECRET],
        ["--db.PASSWORD=" + SECRET + "=="],
        ["--client-secret", SECRET],
        ["--auth", SECRET],
        ["--db-pass=" + SECRET],
        ["--ssh-passphrase", SECRET],
        [f"--db=postgres://me:{SECRET}@host/runs"],
        ["--store", f"s3://:{SECRET}@host:9000/a:b@c"],
    ],
)
def test_a_secret_is_masked(given: list[str]) -> None:
    found = mask(["train.py", *given, "data"])
    assert SECRET not in " ".join(found)
    assert found[0] == "train.py"
    assert found[-1] == "data"
    assert len(found) == len(given) + 2


@pytest.mark.parametrize(
    "given",
    [["--tokens", "512"], ["--monkey", "x"], ["--key", "--lr", "0.1"], ["--keyboard=3"], ["key", "x"]],
)
def test_other_values_stand_as_they_are(given: list[str]) -> None:
    assert mask(given) == given


def test_no_page_has_it() -> None:
    command = ["train.py", "--api-key", SECRET]
    made = comparison()
    made["program"]["command"] = command
    made["trials"][0]["command"] = ["python", *command]
    assert SECRET not in page.render(made)
    assert "train.py --api-key ***:" in repr(Comparison(made, Path()))
    found = diagnosed.sample() | {"program": {"command": command}}
    assert SECRET not in page.render(made, [found])
    assert SECRET not in diagnosis_page.render(found)
    assert "train.py --api-key *** in" in repr(Diagnosis(found, Path()))
