"""Machines that are lost while they run a block: played, so that each way to lose one is certain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from halfstep import codec
from halfstep.comparison import running
from halfstep.comparison.blocks import PlaceLost
from halfstep.comparison.cluster.ray_cluster import Cluster
from halfstep.comparison.model import environment as model
from halfstep.comparison.request import Request, stored
from halfstep.errors import HalfstepError
from halfstep.record import read
from halfstep.report.compared import compare
from halfstep.trials import Job, Outcome, Trial

from ..test_archive import ENVIRONMENT, Quiet, written
from ..test_archive import ran as ran
from ..test_archive import request_ as request_


class Machine:
    """Runs trials at once; it is lost in those that ``lost`` names, each as often as it stands there."""

    def __init__(self, lost: list[Trial], back: bool, told: list[tuple[Trial, Machine]]) -> None:
        self._lost, self._back, self._told = lost, back, told

    def run(self, job: Job, trial: Trial, *given: Any) -> Outcome:
        self._told.append((trial, self))
        if trial in self._lost:
            self._lost.remove(trial)
            raise PlaceLost(self._back)
        request = Request(job.program, (), False, None, job.options, 1, 1, None, "", job.folder)
        return Outcome(trial, "ok", "", 0, read(written(request, trial)), seconds=1.5)


class Told(Quiet):
    """Remembers how each trial ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def finish(self, label: str, status: str, words: str) -> None:
        self.ended.append((label, status))


def play(
    monkeypatch: pytest.MonkeyPatch, lost: list[Trial], back: Sequence[bool]
) -> list[tuple[Trial, Machine]]:
    """A cluster of as many machines as ``back`` says of whether another takes the place of each that is lost."""
    told: list[tuple[Trial, Machine]] = []

    @contextlib.contextmanager
    def cluster(*given: Any) -> Iterator[Cluster]:
        machines: Any = [Machine(lost, each, told) for each in back]
        used = model.Cluster(len(machines), other_machines=("A100", "A100"), busy_machines=1)
        yield Cluster(replace(ENVIRONMENT, cluster=used), machines)

    monkeypatch.setattr(running, "cluster", cluster)
    return told


@pytest.mark.parametrize("back", [(True,), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize("lost", [[], [Trial("bf16", 1)], [Trial("fp32", 0), Trial("bf16", 0)]])
def test_the_comparison_is_the_one_of_trials_in_turn(
    request_: Request,
    ran: list[Trial],
    monkeypatch: pytest.MonkeyPatch,
    lost: list[Trial],
    back: tuple[bool, ...],
) -> None:
    if len(lost) == 2 and not all(back):
        lost = lost[:1]  # a machine must be left
    in_turn = codec.write(compare(replace(request_, folder=request_.folder / "turn"), Quiet()))
    begun = play(monkeypatch, [*lost], back)
    told = Told()
    asked = replace(request_, on="ray", folder=request_.folder / "cluster")
    found = codec.write(compare(asked, told))
    names = ("precision", "seed", "repeat", "status", "losses", "step_seconds", "peak_memory_bytes", "ran_as")
    assert [[t[n] for n in names] for t in found["trials"]] == [
        [t[n] for n in names] for t in in_turn["trials"]
    ]
    assert [label for label, status in told.ended if status == "lost"] == [trial.label for trial in lost]
    for trial in lost:  # its block begins again with fp32
        blocks = [each.precision for each, _ in begun if each.seed == trial.seed]
        assert blocks[-2:] == ["fp32", "bf16"]
        assert len(blocks) == 2 + sum(2 if t.precision == "bf16" else 1 for t in lost if t.seed == trial.seed)
    for seed in (0, 1):
        assert len({machine for _, machine in [each for each in begun if each[0].seed == seed][-2:]}) == 1
    assert (
        f"the trials ran on {len(back)} machine{'s' * (len(back) > 1)} of a Ray cluster; 2 machines of another kind "
        "left out (A100); 1 in use by others left out"
    ) in found["verdicts"][0]["warnings"]
    begun.clear()
    compare(asked, Quiet(), stored(asked.folder))
    assert begun == []


def test_without_a_machine_the_rest_waits_for_a_resume(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(request_, on="ray")
    play(monkeypatch, [Trial("bf16", 0)], [False])
    with pytest.raises(
        HalfstepError, match="All machines were lost before .* could run; go on with --resume"
    ):
        compare(asked, Quiet())
    begun = play(monkeypatch, [], [True])
    done = compare(asked, Quiet(), stored(asked.folder))
    assert [trial.status for trial in done.trials] == ["ok"] * 4
    assert Trial("fp32", 0) not in [trial for trial, _ in begun]


def test_a_block_that_is_lost_again_and_again_ends_the_comparison(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = play(monkeypatch, [Trial("bf16", 0)] * 3, [True])
    with pytest.raises(
        HalfstepError, match=r"bf16-seed0-repeat0 was lost 3 times .* look there for a lack of memory"
    ):
        compare(replace(request_, on="ray"), Quiet())
    assert [trial for trial, _ in begun].count(Trial("bf16", 0)) == 3
