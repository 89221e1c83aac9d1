"""One place on a machine of the cluster: a Ray actor that holds the resources of a block and runs its trials."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfstep import codec
from halfstep.comparison.blocks import PlaceLost
from halfstep.comparison.cluster.connection import inside
from halfstep.comparison.cluster.node import News, Node, Written
from halfstep.comparison.model.environment import Environment
from halfstep.trials import Job, Outcome, Trial
from halfstep.trials.outcome import records_at
from halfstep.trials.place import Stop
from halfstep.trials.run import OnStep

#: seconds that a lost place may take to be ready again, as others may use the resources that it needs
READY_AGAIN = 20.0

#: seconds between two checks whether to stop a trial
_POLL = 1.0


class Remote:
    """A place on a machine of the cluster, where one block runs at a time.

    Args:
        node: the machine's name in Ray.
        want: the resources that it gets, by Ray's names.
    """

    def __init__(self, ray: Any, node: str, want: dict[str, float]) -> None:
        self.node = node
        self._ray, self._want = ray, want
        self._actor = self._made()

    def _made(self) -> Any:
        rest = {name: amount for name, amount in self._want.items() if name not in ("CPU", "GPU")}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = NodeAffinitySchedulingStrategy(self.node, soft=False)
        kind = self._ray.remote(Node).options(
            num_cpus=self._want.get("CPU", 0),
            num_gpus=self._want.get("GPU", 0),
            resources=rest,
            scheduling_strategy=where,
            max_concurrency=2,  # a trial can be stopped while this process waits for its news
        )
        return kind.remote()

    def about(self) -> Environment:
        """The machine's description."""
        return codec.read(Environment, self._ray.get(self._actor.about.remote()))

    def ready(self, seconds: float) -> bool:
        """Whether it gets its resources within so many seconds; if not, it is ended."""
        try:
            self._ray.get(self._actor.__ray_ready__.remote(), timeout=seconds)
        except self._ray.exceptions.RayError:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Give its resources back."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)

    def run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        """As :meth:`~halfstep.comparison.blocks.Runner.run`; files that the trial writes there are written here, too.

        Raises:
            PlaceLost: its machine, or Ray's process there, is gone.
        """
        try:
            return self._run(job, trial, on_step, stop)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of halfstep on that machine
        except self._ray.exceptions.RayError:
            self.end()
            self._actor = self._made()
            raise PlaceLost(self.ready(READY_AGAIN)) from None

    def _run(self, job: Job, trial: Trial, on_step: OnStep, stop: Stop) -> Outcome:
        there = job if job.module else replace(job, program=inside(job.program))
        asked: list[str] = []
        self._get(self._actor.begin.remote(there, trial), stop, asked)
        while True:
            news: News = self._get(self._actor.news.remote(), stop, asked)
            for written in news.written:
                _write(job.record(trial).parent, written)
            if news.step is not None:
                on_step(*news.step)
            if news.ended is not None:
                record, ranks = records_at(job.record(trial))
                end = news.ended
                return Outcome(
                    trial, end.status, end.reason, end.exit_code, record, ranks, end.seconds
                ).trusted()

    def _get(self, answer: Any, stop: Stop, asked: list[str]) -> Any:
        """Wait for an answer. If interrupted meanwhile, ask the trial to stop; the second time, at once."""
        while True:
            try:
                stop.check()
            except KeyboardInterrupt as by:
                if len(asked) < 1 + stop.at_once:
                    asked.append(str(by))
                    self._actor.stop.remote(str(by))
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                return self._ray.get(answer, timeout=_POLL)


def _write(folder: Path, written: Written) -> None:
    """Put what a trial wrote there into the file of the same name here."""
    path = folder / Path(written.name).name
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(written.offset)
        file.seek(written.offset)
        file.write(written.data)
