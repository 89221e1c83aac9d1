"""Weights & Biases: a group per comparison, with a run per trial, and a run that has the table and the page.

:func:`halfstep.report.tracking.trackers.environment` keeps it offline and in its place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import wandb

from halfstep.processes import join_words
from halfstep.report.tracking.runs import Run, Tracked


def write(comparison: Tracked, place: str) -> str:
    """Write the comparison below the folder ``place``, or send it; returns how to see it."""
    _forget(comparison, Path(place))
    for trial in comparison.runs:
        with _begun(comparison, place, trial.name, trial.id, "trial", {**trial.parameters}) as run:
            _trial(run, trial)
            run.finish(exit_code=0 if trial.status == "ok" else 1)
    with _begun(
        comparison,
        place,
        comparison.name,
        f"{comparison.id[:8]}comparison",
        "comparison",
        {**comparison.parameters},
    ) as run:
        address = str(run.url or "")
        run.notes = comparison.table
        if comparison.page:
            page = wandb.Artifact(f"page-{comparison.id[:8]}", type="report")
            page.add_file(comparison.page, name="report.html")
            run.log_artifact(page)
    wandb.teardown()
    return (
        address or f"wandb sync {join_words([str(Path(place, 'wandb'))])}/offline-run-*-{comparison.id[:8]}*"
    )


def _forget(comparison: Tracked, place: Path) -> None:
    """Remove what was written offline when the same comparison was sent before."""
    for folder in place.glob(f"wandb/offline-run-*-{comparison.id[:8]}*"):
        shutil.rmtree(folder)


def _begun(
    comparison: Tracked, place: str, name: str, id: str, kind: str, config: dict[str, str]
) -> wandb.Run:
    """Start a run that records nothing of this process, as the trial ran in another one."""
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
        group=f"{comparison.name}-{comparison.id[:8]}",
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
