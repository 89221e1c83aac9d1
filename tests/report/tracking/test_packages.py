"""The trackers' own packages, offline: what they are told is what they read back; ``make test-long`` runs these."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halfstep.report.tracking import check, parse_targets, track

from ..sample import comparison

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]

DATA = comparison(steps=12)
LABELS = [f"{t['precision']}-seed{t['seed']}-repeat{t['repeat']}" for t in DATA["trials"]]


def losses(trial: dict[str, Any]) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in enumerate(trial["losses"]) if loss is not None]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder that a tracker wrote, told twice; nothing was written anywhere else."""
    name = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is in an environment of its own: make test-long")
    for variable in [v for v in os.environ if v.startswith(("WANDB", "MLFLOW"))]:
        monkeypatch.delenv(variable)
    for place in ("home", "here"):
        (tmp_path / place).mkdir()
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("the page")
    (target,) = parse_targets([name])
    check(target, out)
    seen = [track(target, DATA, out, out / "report.html") for _ in range(2)]
    assert seen[0] == seen[1]
    assert str(out / "tracking" / name) in seen[0]
    assert [path.name for path in out.iterdir() if path.name != "report.html"] == ["tracking"]
    assert list((tmp_path / "home").iterdir()) == list((tmp_path / "here").iterdir()) == []
    return out / "tracking" / name


@pytest.mark.parametrize("told", ["tensorboard"], indirect=True)
def test_tensorboard_reads_back_what_it_is_told(told: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    assert (told / "out" / "report.html").read_text() == "the page"
    for label, trial in zip(LABELS, DATA["trials"], strict=True):
        (file,) = (told / "out" / label).iterdir()
        events = EventAccumulator(str(file))
        events.Reload()
        if trial["losses"]:
            read = [(e.step, e.value) for e in events.Scalars("loss")]
            assert read == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses(trial)]
        if trial.get("peak_memory_bytes"):
            (peak,) = events.Scalars("figures/peak_memory_bytes")
            assert peak.value == pytest.approx(trial.get("peak_memory_bytes"), rel=1e-6)
        raw = events.PluginTagToContent("hparams")["_hparams_/session_end_info"]
        ended = plugin_data_pb2.HParamsPluginData.FromString(raw).session_end_info.status
        assert (ended == 1) == (trial["status"] == "ok")
    (file,) = (told / "out").glob("events*")
    events = EventAccumulator(str(file))
    events.Reload()
    (text,) = events.Tensors("comparison")
    assert b"| fp32 |" in text.tensor_proto.string_val[0]


@pytest.mark.parametrize("told", ["mlflow"], indirect=True)
def test_mlflow_reads_back_what_it_is_told(told: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{told / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("halfstep")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == sorted([*LABELS, "out"])  # what was told before is deleted
    parent = runs.pop("out")
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    for label, trial in zip(LABELS, DATA["trials"], strict=True):
        run = runs[label]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["halfstep.status"] == trial["status"]
        assert run.info.status == ("FINISHED" if trial["status"] == "ok" else "FAILED")
        assert run.data.params["precision"] == trial["precision"]
        read = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
        assert sorted(read) == losses(trial)
        assert run.data.metrics.get("peak_memory_bytes") == trial.get("peak_memory_bytes")


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a file of wandb's: LevelDB's format of a log, behind a header of 7 bytes.

    Blocks of 32 KiB hold fragments: 4 bytes of CRC, 2 of length, 1 of type (1 whole, 2 first, 3 middle, 4 last).
    """
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.parametrize("told", ["wandb"], indirect=True)
def test_wandb_reads_back_what_it_is_told(told: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[str, Any]] = {}
    for file in told.glob("wandb/offline-run-*/run-*.wandb"):
        run: dict[str, Any] = {"losses": [], "summary": {}, "artifacts": []}
        for record in map(Record.FromString, logged(file.read_bytes())):
            if record.HasField("run"):
                run |= {"name": record.run.display_name, "group": record.run.run_group}
            if record.HasField("history"):
                items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
                if "loss" in items:
                    run["losses"].append((items["_step"], items["loss"]))
            for item in record.summary.update if record.HasField("summary") else ():
                run["summary"][item.key or item.nested_key[0]] = json.loads(item.value_json)
            if record.HasField("artifact"):
                run["artifacts"] += [entry.path for entry in record.artifact.manifest.contents]
            if record.HasField("exit"):
                run["exit_code"] = record.exit.exit_code
        found[run["name"]] = run
    assert sorted(found) == sorted([*LABELS, "out"])
    assert len({run["group"] for run in found.values()}) == 1
    assert found["out"]["artifacts"] == ["report.html"]
    for label, trial in zip(LABELS, DATA["trials"], strict=True):
        run = found[label]
        assert run["losses"] == losses(trial)
        assert run["exit_code"] == int(trial["status"] != "ok")
        assert run["summary"].get("peak_memory_bytes") == trial.get("peak_memory_bytes")
        assert run["summary"]["status"] == trial["status"]
