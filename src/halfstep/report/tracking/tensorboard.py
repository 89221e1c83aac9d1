"""TensorBoard: a folder per comparison with a folder of event files per trial, written without TensorFlow."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    create_summary_metadata,
)
from tensorboard.plugins.text.metadata import create_summary_metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from halfstep.processes import join_words
from halfstep.report.tracking.runs import Run, Tracked

#: the ending of the files written here; a comparison that is sent again replaces them
_OURS = ".halfstep"

#: parameters that TensorBoard's table of hyperparameters shows
_HPARAMS = ("precision", "seed", "repeat", "status")


def write(comparison: Tracked, place: str) -> str:
    """Write the comparison below the folder ``place``; returns the command that shows it."""
    folder, started = Path(place) / comparison.name, _seconds(comparison.started)
    folder.mkdir(parents=True, exist_ok=True)
    page = f"\n\nThe page: {_page(comparison, folder)}" if comparison.page else ""
    _write(folder, started, [_text("comparison", comparison.table + page), _hparams(comparison)])
    for run in comparison.runs:
        _write(folder / run.name, started, _start(run, comparison), steps=run)
    return join_words(["tensorboard", "--logdir", place])


def _page(comparison: Tracked, folder: Path) -> Path:
    """TensorBoard stores no other files, so the page is put beside its own files."""
    return Path(shutil.copyfile(comparison.page, folder / "report.html"))


def _seconds(started: str) -> float:
    try:
        return datetime.fromisoformat(started).timestamp()
    except ValueError:
        return time.time()


def _write(folder: Path, started: float, first: list[Summary.Value], steps: Run | None = None) -> None:
    """Write one event file; it replaces those that were written here before."""
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob(f"events.out.tfevents.*{_OURS}"))
    new = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}{_OURS}"
    partial = folder / f".{new.name}.partial"
    with open(partial, "wb") as file:
        events = RecordWriter(file)
        events.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
        events.write(Event(wall_time=started, summary=Summary(value=first)).SerializeToString())
        for event in [] if steps is None else _events(steps, started):
            events.write(event.SerializeToString())
    for path in old:
        path.unlink()
    partial.replace(new)


def _events(run: Run, started: float) -> Iterator[Event]:
    """Values by step, at the times at which the steps ended after the comparison's start; then the figures."""
    at, last = started, 0
    for step, values in run.by_step():
        at, last = at + values.get("step_seconds", 0.0), step
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        yield Event(wall_time=at, step=step, summary=Summary(value=scalars))
    figures = [
        Summary.Value(tag=name if "/" in name else f"figures/{name}", simple_value=value)
        for name, value in run.figures.items()
    ]
    yield Event(wall_time=at, step=last, summary=Summary(value=figures))
    ended = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.Status.Value("STATUS_SUCCESS" if run.status == "ok" else "STATUS_FAILURE"),
        end_time_secs=at,
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=ended)
    yield Event(wall_time=at, step=last, summary=Summary(value=[_of_hparams(SESSION_END_INFO_TAG, data)]))


def _text(name: str, text: str) -> Summary.Value:
    """A text, which TensorBoard shows as Markdown."""
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[text.encode("utf-8")],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    return Summary.Value(tag=name, metadata=text_metadata(name, ""), tensor=tensor)


def _of_hparams(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=create_summary_metadata(data))


def _hparams(comparison: Tracked) -> Summary.Value:
    """The columns of the table of hyperparameters: what distinguishes trials, and the figures."""
    experiment = api_pb2.Experiment(
        name=comparison.name,
        hparam_infos=[api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_STRING) for name in _HPARAMS],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag))
            for tag in ("loss", "figures/median_step_seconds", "figures/peak_memory_bytes")
        ],
    )
    return _of_hparams(EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _start(run: Run, comparison: Tracked) -> list[Summary.Value]:
    """The trial's parameters, as hyperparameters and as a table."""
    start = plugin_data_pb2.SessionStartInfo(group_name=comparison.name)
    for name in _HPARAMS:
        start.hparams[name].string_value = run.parameters.get(name, "")
    rows = "\n".join(f"| {name} | {value.replace('|', ' ')} |" for name, value in run.parameters.items())
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    return [_of_hparams(SESSION_START_INFO_TAG, data), _text("trial", f"| | |\n|---|---|\n{rows}")]
