"""MLflow: an experiment with a run per comparison, which has the page, and below it a run per trial."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from halfstep.report.tracking import runs
from halfstep.report.tracking.runs import Tracked

#: limits of a request: metrics, parameters, characters of a value
_METRICS, _PARAMS, _LONGEST = 1000, 100, 500

#: characters that a name must not have
_FORBIDDEN = re.compile(r"[^\w\-. /]")

_ID, _TRIAL, _STATUS = "halfstep.comparison", "halfstep.trial", "halfstep.status"

#: the state of a run in MLflow, by the trial's status; any other has failed
_STATES = {"ok": "FINISHED", "interrupted": "KILLED"}


def write(comparison: Tracked, place: str) -> str:
    """Write the comparison to the server or database ``place``, or into the folder; returns how to see it."""
    address, artifacts = _address(place)
    client = MlflowClient(tracking_uri=address)
    experiment = _experiment(client, artifacts)
    for old in client.search_runs([experiment], f"tags.`{_ID}` = '{comparison.id}'"):
        client.delete_run(old.info.run_id)
    parent = client.create_run(
        experiment,
        run_name=comparison.name,
        tags={_ID: comparison.id, "mlflow.note.content": comparison.table},
    )
    _parameters(client, parent, comparison.parameters)
    if comparison.page:
        client.log_artifact(parent.info.run_id, comparison.page)
    for trial in comparison.runs:
        _trial(client, experiment, parent, trial, comparison)
    client.set_terminated(parent.info.run_id, "FINISHED")
    return place if artifacts is None else f"mlflow ui --backend-store-uri {address}"


def _address(place: str) -> tuple[str, str | None]:
    """The address of the store, and where its files go; None if the store decides that."""
    if not os.path.isabs(place):
        return place, None
    return f"sqlite:///{Path(place) / 'mlflow.db'}", (Path(place) / "artifacts").as_uri()


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    """The id of the experiment that the environment names, or else of ``halfstep``; made if it does not exist."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "halfstep")
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts))


def _parameters(client: MlflowClient, run: Run, parameters: Mapping[str, str]) -> None:
    params = [Param(name, value[:_LONGEST]) for name, value in parameters.items()]
    client.log_batch(run.info.run_id, params=params[:_PARAMS])


def _trial(client: MlflowClient, experiment: str, parent: Run, trial: runs.Run, comparison: Tracked) -> None:
    tags = {
        _ID: comparison.id,
        _TRIAL: trial.name,
        _STATUS: trial.status,
        "mlflow.parentRunId": parent.info.run_id,
    }
    run = client.create_run(experiment, run_name=trial.name, tags=tags)
    _parameters(client, run, trial.parameters)
    now, last = int(time.time() * 1000), 0
    metrics = []
    for step, values in trial.by_step():
        last = step
        metrics += [Metric(_name(name), value, now, step) for name, value in values.items()]
    metrics += [Metric(_name(name), value, now, last) for name, value in trial.figures.items()]
    for at in range(0, len(metrics), _METRICS):
        client.log_batch(run.info.run_id, metrics=metrics[at : at + _METRICS])
    client.log_batch(
        run.info.run_id, tags=[RunTag("mlflow.note.content", trial.parameters.get("reason", ""))]
    )
    client.set_terminated(run.info.run_id, _STATES.get(trial.status, "FAILED"))


def _name(name: str) -> str:
    return _FORBIDDEN.sub("_", name)
