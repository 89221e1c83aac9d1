"""Weights & Biases: a group per comparison, in it a run per trial, and one that has the table and the page.

:func:`halfstep.report.tracking.trackers.environment` keeps it offline and in its place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import wandb

from halfstep.processes import join_words
from halfstep.report.tracking.runs import Run, Tracked


def write(told: Tracked, place: str) -> str:
    """Write the comparison below the folder ``place``, or send it; returns how to see it."""
    _forget(told, Path(place))
    for trial in told.runs:
        with _begun(told, place, trial.name, trial.id, "trial", {**trial.parameters}) as run:
            _trial(run, trial)
            run.finish(exit_code=0 if trial.status == "ok" else 1)
    with _begun(told, place, told.name, f"{told.id[:8]}comparison", "comparison", {**told.parameters}) as run:
        address = str(run.url or "")
        run.notes = told.table
        if told.page:
            page = wandb.Artifact(f"page-{told.id[:8]}", type="report")
            page.add_file(told.page, name="report.html")
            run.log_artifact(page)
    wandb.teardown()
    return address or f"wandb sync {join_words([str(Path(place, 'wandb'))])}/offline-run-*-{told.id[:8]}*"


def _forget(told: Tracked, place: Path) -> None:
    """Take away what was written offline when the same comparison was sent before."""
    for folder in place.glob(f"wandb/offline-run-*-{told.id[:8]}*"):
        shutil.rmtree(folder)


def _begun(told: Tracked, place: str, name: str, id: str, kind: str, config: dict[str, str]) -> wandb.Run:
    """A run that has nothing of this process: the trial is over, and ran in another."""
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "halfstep"),
        dir=place,
        id=id,
        name=name,
        group=f"{told.name}-{told.id[:8]}",
        job_type=kind,
        config=config,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )


def _trial(run: wandb.Run, trial: Run) -> None:
    for step, values in trial.by_step():
        run.log(values, step=step)
    run.summary.update({**trial.figures, "status": trial.status})
