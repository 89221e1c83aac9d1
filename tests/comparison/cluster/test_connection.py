"""What ``--on`` cannot do is said before anything is begun."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from halfstep.cli.compare import prepare
from halfstep.comparison.cluster.connection import inside
from halfstep.comparison.options import ComparisonOptions
from halfstep.comparison.request import Request, resumed, save, stored
from halfstep.errors import UsageError

from ..test_archive import ENVIRONMENT
from ..test_archive import request_ as request_


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"resources": "gpu=1"}, r"--resources gpu=1 was given without --on, and is only for that; give --on ray, too"),
        ({"on": "ray", "parallel": "2"}, r"--on ray was given with --parallel, which is for one machine; leave one of"),
        ({"on": "ray", "fit_batch": "--batch"}, r"--on ray was given with --fit-batch, which is for one machine"),
        ({"on": "ray://h", "program": "/tmp/../usr/train.py"}, r"'/tmp/../usr/train.py'"),
        ({"on": "ray"}, r"--on ray needs Ray; install it by `pip install 'halfstep\[ray\]'`, here and on the cluster's"),
    ],
)  # fmt: skip
def test_in_a_sentence(
    given: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Path("train.py").write_text("")
    with pytest.raises(UsageError, match=sentence):
        prepare(ComparisonOptions(**{"program": "train.py", **given}), given)
    assert not list(Path("halfstep-out").glob("*/*"))


def test_only_what_is_in_the_current_folder_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert inside("b/../b/train.py") == inside(str(tmp_path / "a" / "b" / "train.py")) == "b/train.py"
    assert inside("") == ""
    for program in ("../train.py", str(tmp_path / "train.py"), "b/../../train.py"):
        with pytest.raises(UsageError, match="is not in the current folder, which is all that --on sends"):
            inside(program)


def test_a_comparison_on_a_cluster_goes_on_there_with_more_time(request_: Request) -> None:
    import dataclasses

    save(dataclasses.replace(request_, on="ray", resources="gpu=1"), ENVIRONMENT)
    old = stored(request_.folder)
    assert (old.request.on, old.request.resources) == ("ray", "gpu=1")
    assert resumed(old, {"budget": 60.0}).budget == 60.0
    with pytest.raises(UsageError, match="was made with on ray, not ray://h; leave that out to resume it"):
        resumed(old, {"on": "ray://h"})
