"""What a tracker is told, and what becomes of a comparison where one fails: with a played package in wandb's place."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

import halfstep
from halfstep.cli.outputs import print_tracked
from halfstep.errors import UsageError
from halfstep.report.tracking import NotTracked, check, parse_targets, process, track, trackers
from halfstep.report.tracking.runs import tracked

from ...cli.running import PROGRAMS
from ..sample import comparison

PLAYED = str(PROGRAMS / "played_trackers")


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the played wandb writes to."""
    for name in ("WANDB_DIR", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", PLAYED)
    monkeypatch.setenv("PLAYED_FILE", str(tmp_path / "told.jsonl"))
    monkeypatch.syspath_prepend(PLAYED)
    sys.modules.pop("wandb", None)
    return tmp_path / "told.jsonl"


def test_a_tracker_is_told_every_trial_with_its_steps_figures_and_the_page(
    played: Path, tmp_path: Path
) -> None:
    data, page = comparison(), tmp_path / "report.html"
    page.write_text("page")
    data["program"]["command"] += ["--api-key", "hunter2"]
    (target,) = parse_targets(["wandb"])
    check(target, tmp_path)
    assert not played.exists()
    seen = track(target, data, tmp_path, page)
    assert seen.startswith("wandb sync ")
    told = [json.loads(line) for line in played.read_text().splitlines()]
    begun = [line["init"] for line in told if "init" in line]
    labels = [f"{t['precision']}-seed{t['seed']}-repeat{t['repeat']}" for t in data["trials"]]
    assert [each["name"] for each in begun] == [*labels, tmp_path.name]
    assert len({each["group"] for each in begun}) == 1
    assert len({each["id"] for each in begun}) == len(begun)
    assert {line["mode"] for line in told if "init" in line} == {"offline"}
    assert {each["dir"] for each in begun} == {str(tmp_path / "tracking" / "wandb")}
    assert "hunter2" not in played.read_text()
    trial, own = data["trials"][0], [line for line in told if line.get("run") == labels[0]]
    losses = {line["step"]: line["values"].get("loss") for line in own if "values" in line}
    assert losses == {step: loss for step, loss in enumerate(trial["losses"]) if loss is not None}
    (figures,) = [line["figures"] for line in own if "figures" in line]
    assert figures["peak_memory_bytes"] == trial["peak_memory_bytes"]
    assert figures["memory/weights_bytes"] == trial["memory"]["weights"]
    assert figures["status"] == trial["status"]
    ends = {line["run"]: line["exit_code"] for line in told if "exit_code" in line}
    assert ends == {n: int(t["status"] != "ok") for n, t in zip(labels, data["trials"], strict=True)}
    assert [line["artifact"] for line in told if "artifact" in line] == [[[str(page), "report.html"]]]


def test_step_times_stand_at_their_steps_and_what_is_absent_is_left_out(tmp_path: Path) -> None:
    data = comparison(steps=8)
    trial = data["trials"][0]
    trial["losses"] = [1.0, None, 0.5, 0.25]
    trial["steps"], trial["warmup_steps"], trial["step_times"] = 4, 0, [0.1, 0.2, 0.3]
    trial["peak_memory_bytes"] = None
    trial["logged"] = {"accuracy": [[2, 0.5], [3, None]]}
    run = tracked(data, tmp_path, None).runs[0]
    assert dict(run.by_step()) == {
        0: {"loss": 1.0},
        1: {"step_seconds": 0.1},
        2: {"loss": 0.5, "step_seconds": 0.2, "logged/accuracy": 0.5},
        3: {"loss": 0.25, "step_seconds": 0.3},
    }
    assert "peak_memory_bytes" not in run.figures
    assert run.id == tracked(data, tmp_path, None).runs[0].id
    trial["losses"][0] = 2.0
    assert run.id != tracked(data, tmp_path, None).runs[0].id


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("raise", "RuntimeError: the server said: no"),
        ("leave", "its process ended with exit code 7, and printed 'noise on stdout'"),
        ("exit", "out of quota"),
        ("hang", "it had not ended after 5 s"),
    ],
)
def test_one_that_fails_is_a_sentence(
    fault: str,
    why: str,
    played: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PLAYED_FAULT", fault)
    monkeypatch.setattr(process, "LIMIT", 5.0 if fault == "hang" else process.LIMIT)
    print_tracked(parse_targets(["wandb"]), comparison(), tmp_path, None)
    assert capsys.readouterr().err == (
        f"halfstep: The comparison was not sent to wandb ({why}); `halfstep report {tmp_path} --track wandb` sends it "
        "again.\n"
    )


def test_the_comparison_is_there_where_a_tracker_fails(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAYED_FAULT", "exit")
    Path("idle.py").write_text("print('idle')\n")
    with pytest.warns(RuntimeWarning, match="The comparison was not sent to wandb"):
        found = halfstep.compare("idle.py", precisions="fp32", out="out", track=["wandb"])
    assert found.trials[0]["reason"]
    assert (tmp_path / "out" / "report.html").exists()
    monkeypatch.setenv("PLAYED_FAULT", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halfstep.compare(resume="out", track="wandb")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["tensorbord"],
            "--track was given 'tensorbord'; give tensorboard, mlflow, wandb, or one with the folder",
        ),
        (["wandb="], "--track was given 'wandb='; give tensorboard, mlflow, wandb, or one with the folder"),
        ([""], "--track was given ''; give tensorboard"),
        (["wandb", "wandb=runs"], "--track names wandb twice; name it once."),
        (
            ["mlflow"],
            r"--track mlflow needs the package mlflow, which is not installed; pip install 'halfstep\[mlflow\]'.",
        ),
    ],
)
def test_what_cannot_be_is_said(
    given: list[str], sentence: str, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow").mkdir()  # a folder of the package's name is none
    monkeypatch.setattr(sys, "path", [PLAYED, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(UsageError, match=sentence):
        parse_targets(given)


def test_a_package_that_cannot_be_imported_is_said_before_any_trial(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYED_FAULT", "import")
    monkeypatch.chdir(tmp_path)
    Path("idle.py").write_text("print('idle')\n")
    said = r"--track wandb does not work here \(ImportError: no module named protobuf\); fix that, or leave it out."
    with pytest.raises(UsageError, match=said):
        halfstep.compare("idle.py", precisions="fp32", out="out", track="wandb")
    assert list(tmp_path.glob("out/trials/*")) == []
    monkeypatch.setenv("PLAYED_FAULT", "")
    with pytest.raises(UsageError, match="track names wandb, which would write into a temporary folder"):
        halfstep.compare("idle.py", precisions="fp32", track="wandb")
    Path("file").write_text("")
    with pytest.raises(
        NotTracked, match="(NotADirectoryError|FileExistsError).*--track wandb=file` sends it again"
    ):
        track(parse_targets(["wandb=file"])[0], comparison(), tmp_path, None)


@pytest.mark.parametrize(
    ("text", "environment", "place"),
    [
        ("wandb", {}, "out/tracking/wandb"),
        ("wandb", {"WANDB_DIR": "own"}, "own"),
        ("wandb=given", {"WANDB_DIR": "own"}, "given"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "http://host:5000"}, "http://host:5000"),
        ("mlflow=sqlite:///x.db", {}, "sqlite:///x.db"),
        ("mlflow=runs", {"MLFLOW_TRACKING_URI": "http://host:5000"}, "runs"),
    ],
)
def test_a_tracker_writes_where_the_user_said(
    text: str, environment: dict[str, str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, _, given = text.partition("=")
    target = trackers.Target(trackers.TRACKERS[name], given)
    assert target.place(Path("out"), environment) == (place if ":" in place else str(tmp_path / place))


@pytest.mark.parametrize(
    ("given", "mode"), [({}, "offline"), ({"WANDB_API_KEY": "k"}, None), ({"WANDB_MODE": "online"}, "online")]
)
def test_nothing_is_sent_that_nobody_configured(given: dict[str, str], mode: str | None) -> None:
    made = trackers.environment(trackers.TRACKERS["wandb"], "place", given)
    assert made.get("WANDB_MODE") == mode
    assert ("WANDB_CONFIG_DIR" in made) == (mode == "offline")
    assert made["MLFLOW_DISABLE_TELEMETRY"] == made["DO_NOT_TRACK"] == "true"
