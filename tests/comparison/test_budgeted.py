"""Comparisons with a budget from the first trial to the verdicts; the trials are drawn, and time is told by them."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from halfstep import codec
from halfstep.comparison import archive, running
from halfstep.comparison.blocks import PlaceLost
from halfstep.comparison.budgeted import parse_budget
from halfstep.comparison.cluster import ray_cluster
from halfstep.comparison.model import environment as model
from halfstep.comparison.model.comparison import Comparison
from halfstep.comparison.request import Request, Stored, resumed, stored
from halfstep.comparison.requirements import judge, parse_requirements
from halfstep.comparison.statistics.sequential import LOOKS
from halfstep.errors import UsageError
from halfstep.meters import Absent
from halfstep.record import SCHEMA, Writer, read
from halfstep.report.compared import compare, rebuilt
from halfstep.report.reading import budget_to_give, budget_words, no_interval, offers_budget
from halfstep.report.terminal import table
from halfstep.report.words.requirements import requirement_words
from halfstep.trials import Outcome, Trial

from .test_archive import ENVIRONMENT, Quiet
from .test_archive import request_ as request_

#: seconds of a step, and how much higher the loss is, of each precision
TRUTH = {"fp32": (0.1, 0.0), "bf16": (0.05, 0.0), "fp16": (0.3, 0.0), "bf16-true": (0.05, 0.4)}
SECONDS = 10.0


class Machine:
    """Runs trials in no time: each takes ten seconds of a clock of its own.

    Attributes:
        ran: the trials in the order in which they ran.
        ends: how a trial ends, where that is not ``ok``.
        noise: of the logarithm of a trial's speed.
    """

    def __init__(self) -> None:
        self.ran: list[Trial] = []
        self.ends: dict[Trial, str] = {}
        self.noise = 0.005
        self.clock = 0.0

    def run_trial(self, job: Any, trial: Trial, on_step: Any) -> Outcome:
        self.ran.append(trial)
        self.clock += SECONDS
        status: Any = self.ends.pop(trial, "ok")
        request = Request(
            job.program, job.arguments, job.module, None, job.options, 1, 1, None, "", job.folder
        )
        path = request.job.record(trial)
        self._write(Writer(path), trial, status)
        return Outcome(trial, status, "" if status == "ok" else status, 0, read(path), seconds=SECONDS)

    def _write(self, writer: Writer, trial: Trial, status: str) -> None:
        step, worse = TRUTH[trial.precision]
        shared = np.random.default_rng([1, trial.seed])
        own = np.random.default_rng([2, trial.seed, len(trial.precision), ord(trial.precision[-1])])
        seconds = step * np.exp(self.noise * own.standard_normal())
        level = 0.1 * shared.standard_normal() + 0.0005 * own.standard_normal() + worse
        writer.write(
            "start", schema=SCHEMA, precision=trial.precision, seed=trial.seed, repeat=trial.repeat, started="2026-01-01"
        )  # fmt: skip
        writer.write("takeover", framework="torch", device="cpu", ran_as=trial.precision, seconds=0.1)
        for i in range(20):
            writer.write(
                "step",
                step=i,
                loss=3.0 - 0.1 * i + level,
                seconds=float(seconds) if i else None,
                skipped=False,
            )
        writer.write("end", status=status, reason="", exit_code=0, steps=20, peak_memory_bytes=10**6)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(running, "run_trial", found.run_trial)
    monkeypatch.setattr(running, "this_machine", lambda: ENVIRONMENT)
    monkeypatch.setattr(running, "idle_watts", lambda *args: Absent("no counter"))
    monkeypatch.setattr(running.time, "monotonic", lambda: found.clock)
    return found


@pytest.fixture
def asked(request_: Request) -> Callable[..., Request]:
    """A request with a budget; a difference of the loss below 0.01 does not matter."""

    def request(*precisions: str, budget: float = 1e6) -> Request:
        return replace(request_, recipes=precisions, seeds=1, budget=budget)

    return request


def seeds(machine: Machine, precision: str) -> list[int]:
    return [trial.seed for trial in machine.ran if trial.precision == precision]


def of(comparison: Comparison, precision: str) -> Any:
    return next(row for row in comparison.verdicts if row.precision == precision)


def test_it_stops_when_every_verdict_is_certain_and_says_what_was_dropped(
    asked: Callable[..., Request], machine: Machine
) -> None:
    request = asked("fp32", "bf16", "fp16", "bf16-true")
    found = compare(request, Quiet())
    assert found.budget is not None
    assert found.budget.end == "certain"
    assert seeds(machine, "fp32") == list(range(len(seeds(machine, "fp32"))))
    # 20 trials are what four seeds of all would be; those that lose stop at the first look that shows it.
    assert 12 <= len(machine.ran) < 20
    assert (of(found, "fp16").status, of(found, "bf16-true").status, of(found, "bf16").status) == (
        "dropped", "dropped", "ok"
    )  # fmt: skip
    assert of(found, "fp16").reason.startswith("certainly loses (0.33× speed, from 0.")
    assert of(found, "bf16-true").reason.startswith("certainly worse (loss: worse by 0.4")
    assert of(found, "bf16").quality.kind == "equivalent"
    assert of(found, "bf16").speed_ratio.low > 1.8
    assert (found.recommendation.precision, found.recommendation.decided) == ("bf16", True)
    # Peaks are alike in every trial: equality decides, and says so.
    assert of(found, "bf16").memory_ratio.low == of(found, "bf16").memory_ratio.high == 1.0
    assert budget_words(found) == [
        "Stopped: every verdict is certain.", "The verdicts hold for the first 20 steps."
    ]  # fmt: skip
    assert found.missing == ()
    assert not offers_budget(found)
    assert found.method[0].figure == "Looks"
    again = rebuilt(request.folder)
    assert (again.verdicts, again.budget) == (found.verdicts, found.budget)
    assert codec.read(Comparison, codec.write(found)).budget == found.budget


class Cluster(Machine):
    """Machines that run blocks side by side: the clock goes on when the first of a wave ends.

    Attributes:
        at_once: how many trials ran when each began.
        lost: trials with which their machine is lost, each once.
    """

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places, self.at_once, self.lost = places, [0], list[Trial]()
        self._running = 0
        self._lock = threading.Lock()

    def run(self, job: Any, trial: Trial, on_step: Any, stop: Any) -> Outcome:
        with self._lock:
            self._running += 1
            self.at_once.append(self._running)
        time.sleep(0.02)
        with self._lock:
            self._running -= 1
            if trial in self.lost:
                self.lost.remove(trial)
                raise PlaceLost(back=True)
            # The comparison reads the clock meanwhile, which is never to be too late.
            self.clock -= SECONDS * (1 - 1 / self.places)
            return self.run_trial(job, trial, on_step)

    @contextlib.contextmanager
    def connected(self, on: str, resources: str, blocks: int, program: str, folder: Any) -> Iterator[Any]:
        assert blocks == LOOKS[-1]
        known = replace(ENVIRONMENT, cluster=model.Cluster(machines=self.places))
        yield ray_cluster.Cluster(known, [self] * self.places)


@pytest.mark.parametrize("places", [1, 2, 5, 8])
def test_side_by_side_the_verdicts_are_those_of_trials_in_turn(
    asked: Callable[..., Request],
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    places: int,
    tmp_path: Path,
) -> None:
    """Blocks run in waves that end at a look; one whose machine is lost runs again from its beginning."""
    names = ("fp32", "bf16", "fp16", "bf16-true")
    in_turn = compare(replace(asked(*names), folder=tmp_path / "turn"), Quiet())
    there = Cluster(places)
    there.lost = [Trial("fp16", 1)]
    monkeypatch.setattr(running, "cluster", there.connected)
    monkeypatch.setattr(running.time, "monotonic", lambda: there.clock)
    request = replace(asked(*names), on="ray")
    found = compare(request, Quiet())
    assert found.budget is not None
    assert found.budget.end == "certain"
    assert max(there.at_once) == min(places, LOOKS[0] if places > 2 else 2)
    for name in names[1:]:
        ours, theirs = of(found, name), of(in_turn, name)
        assert (ours.status, ours.quality.kind) == (theirs.status, theirs.quality.kind)
    assert found.recommendation == in_turn.recommendation
    blocks = {trial.seed for trial in there.ran}
    assert blocks == set(range(len(blocks)))
    # What loses is in no later wave than the one whose look showed it.
    assert max(seeds(there, "fp16")) < max(seeds(there, "fp32")) or len(blocks) == LOOKS[0]
    assert (of(rebuilt(request.folder), "bf16"), rebuilt(request.folder).budget) == (
        of(found, "bf16"),
        found.budget,
    )


def test_side_by_side_a_spent_budget_ends_the_wave_and_resuming_fills_its_blocks_first(
    asked: Callable[..., Request], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Cluster(2)
    monkeypatch.setattr(running, "cluster", there.connected)
    monkeypatch.setattr(running.time, "monotonic", lambda: there.clock)
    request = replace(asked("fp32", "bf16", budget=12.0), on="ray")
    found = compare(request, Quiet())
    assert found.budget is not None
    assert found.budget.end == "time"
    # The third that ends spends the time; the fourth is begun before that, or never. What was begun has ended.
    assert len(there.ran) == len(there.at_once) - 1 == len(found.trials)
    assert len(there.ran) in (3, 4)
    lacking = {(name, block) for name in ("fp32", "bf16") for block in (0, 1)} - {
        (t.precision, t.seed) for t in there.ran
    }
    old = stored(request.folder)
    begun = len(there.ran)
    final = compare(resumed(old, {"budget": 1e6}), Quiet(), old)
    assert final.budget is not None
    assert final.budget.end == "certain"
    again = {(t.precision, t.seed) for t in there.ran[begun : begun + len(lacking)]}
    assert again == lacking
    assert (of(final, "bf16").quality.kind, final.recommendation.precision) == ("equivalent", "bf16")


def test_a_spent_budget_leaves_verdicts_open_and_resuming_with_more_answers_them(
    asked: Callable[..., Request], machine: Machine
) -> None:
    request = asked("fp32", "bf16", budget=45.0)
    found = compare(request, Quiet())
    # Two more pairs, which the first look needs, are no longer in the time.
    assert len(machine.ran) == 2
    assert found.budget is not None
    assert found.budget.end == "time"
    assert of(found, "bf16").speed_ratio.low is None
    assert "go on with --resume and --budget" in found.recommendation.text
    assert offers_budget(found)
    assert budget_to_give(found) == "1m"
    old = stored(request.folder)
    more = resumed(old, {"budget": 600.0})
    assert more.budget == 620.0
    final = compare(more, Quiet(), old)
    assert len(set(machine.ran)) == len(machine.ran), "nothing is run twice"
    assert final.budget is not None
    assert final.budget.end == "certain"
    # StepSampler in between changes nothing: the looks are where they always are.
    machine.ran.clear()
    at_once = compare(replace(asked("fp32", "bf16"), folder=request.folder / "other"), Quiet())
    assert at_once.verdicts == final.verdicts


def test_ctrl_c_gives_the_verdicts_so_far(asked: Callable[..., Request], machine: Machine) -> None:
    request = asked("fp32", "bf16", "fp16")
    full = compare(replace(request, folder=request.folder / "full"), Quiet())
    ran = list(machine.ran)
    machine.ran.clear()
    machine.ends[ran[-1]] = "interrupted"
    found = compare(request, Quiet())
    assert machine.ran == ran
    assert found.budget is not None
    assert found.budget.end == "interrupted"
    # The interrupted trial takes nothing away from what was certain before it.
    assert of(found, "fp16") == of(full, "fp16")
    assert of(found, "fp16").status == "dropped"
    assert of(found, "bf16").status == "ok"
    machine.ran.clear()
    old = stored(request.folder)
    assert compare(resumed(old, {}), Quiet(), old).verdicts == full.verdicts
    assert machine.ran == ran[-1:]


@pytest.mark.parametrize("budget", [5.0, 15.0])
def test_there_is_no_verdict_until_each_precision_has_run(
    asked: Callable[..., Request], machine: Machine, budget: float
) -> None:
    """The order is random: the baseline may be among those to come."""
    found = compare(asked("fp32", "bf16", "fp16", budget=budget), Quiet())
    ran = [trial.precision for trial in machine.ran]
    still = [name for name in ("fp32", "bf16", "fp16") if name not in ran]
    assert len(still) == (2 if budget < SECONDS else 1)
    assert found.budget is not None
    assert (found.budget.end, found.budget.not_run) == ("time", tuple(still))
    told = f"{' and '.join(still)} {'have' if len(still) > 1 else 'has'} not run yet."
    assert found.recommendation.text == f"No verdict: {told}"
    assert (found.recommendation.precision, found.recommendation.decided) == (None, False)
    assert budget_words(found)[0] == "Stopped: the time is used up."
    for judged in judge(parse_requirements(["bf16: no worse, speed >= 1.2"]), found):
        assert judged.answer == "not_known"
        assert requirement_words(judged, found).endswith(
            f"is not known to hold: {told.rstrip('.')}; go on with --resume and --budget."
        )
    assert offers_budget(found)
    assert rebuilt(asked().folder).budget == found.budget


def test_ctrl_c_between_two_trials_lets_the_verdicts_be_written(
    asked: Callable[..., Request], machine: Machine
) -> None:
    class Pressed(Quiet):
        def finish(self, *ended: Any) -> None:
            if len(machine.ran) == 4:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    found = compare(asked("fp32", "bf16"), Pressed())
    assert len(machine.ran) == 4
    assert found.budget is not None
    assert found.budget.end == "interrupted"
    # Two pairs are before the first look: nothing could have been seen yet.
    assert of(found, "bf16").quality.words.endswith("2 seeds, and the first look needs 3")
    assert no_interval(of(found, "bf16"), of(found, "bf16").speed_ratio) == (
        "no interval: two trials; the first look needs 3"
    )
    assert [row.status for row in found.verdicts] == ["ok", "ok"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_precision_that_fails_is_not_run_again(asked: Callable[..., Request], machine: Machine) -> None:
    machine.ends[Trial("fp16", 0)] = "failed"
    found = compare(asked("fp32", "bf16", "fp16"), Quiet())
    assert seeds(machine, "fp16") == [0]
    assert of(found, "fp16").status == "failed"
    machine.ran.clear()
    machine.ends |= {Trial("fp16", 0): "failed", Trial("bf16", 0): "failed"}
    request = asked("fp32", "bf16", "fp16")
    compare(replace(request, folder=request.folder / "both"), Quiet())
    assert len(machine.ran) == 3, "the baseline is not run alone"


def test_what_is_out_of_reach_ends_it_and_says_how_much_more_there_would_be(
    asked: Callable[..., Request], machine: Machine
) -> None:
    machine.noise = 0.8
    found = compare(asked("fp32", "bf16", budget=150.0), Quiet())
    assert found.budget is not None
    assert found.budget.end in ("out_of_reach", "time")
    assert len(machine.ran) <= 15
    assert found.budget.standings[0].open == ("gain",)
    assert budget_words(found)[1].startswith("bf16: speed open")


def test_more_seeds_on_resuming_are_a_look_that_is_paid_for(
    request_: Request, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(request_, seeds=3)
    first = compare(plan, Quiet())
    assert first.budget is None
    assert first.method[0].figure == "Step time"
    old = stored(plan.folder)
    assert not resumed(old, {"seeds": 3}).looked_at
    more = resumed(old, {"seeds": 4})
    assert more.looked_at
    second = compare(more, Quiet(), old)
    assert second.method[0].figure == "Looks"
    before, after = (of(found, "bf16").loss.difference for found in (first, second))
    # One more seed, and yet a wider interval: the level of one look is a part of 5 %.
    assert after.seeds == 4
    assert after.half_width > before.half_width
    assert stored(plan.folder).request.looked_at, "and it stays so"
    assert len(archive.outcomes(more)) == 8


def test_an_open_advice_ends_with_the_offer_of_a_budget(request_: Request, machine: Machine) -> None:
    once = replace(request_, seeds=1)
    found = compare(once, Quiet())
    assert not found.recommendation.decided
    assert offers_budget(found)
    printed = io.StringIO()
    Console(file=printed, width=300).print(table(codec.write(found), once.folder / "report.html"))
    last = " ".join(printed.getvalue().split())
    assert last.endswith("next halfstep compare --resume out --budget 20m") or last.endswith(
        f"next halfstep compare --resume {once.folder} --budget 20m"
    )
    # What it offers goes on from the trials that there are.
    old = stored(once.folder)
    machine.ran.clear()
    told = compare(resumed(old, {"budget": 1200.0}), Quiet(), old)
    assert Trial("fp32", 0) not in machine.ran
    assert told.budget is not None
    assert told.budget.end == "certain"


@pytest.mark.parametrize("name", ["seeds", "repeats"])
def test_a_budget_decides_on_seeds_itself(asked: Callable[..., Request], machine: Machine, name: str) -> None:
    request = asked("fp32", "bf16", budget=25.0)
    compare(request, Quiet())
    old: Stored = stored(request.folder)
    with pytest.raises(UsageError) as refused:
        resumed(old, {name: 4})
    assert str(refused.value) == (
        f"--{name} 4 was given for a comparison with --budget, which decides on seeds and repeats itself; "
        "give --budget more time instead."
    )


def test_budgets_are_read() -> None:
    assert [parse_budget(text) for text in ("20m", "90s", "90", "1.5h", " 2 m")] == [1200, 90, 90, 5400, 120]
    for text in ("", "0", "-3m", "20 minutes", "nan", "1e3", "m"):
        with pytest.raises(UsageError) as refused:
            parse_budget(text)
        assert str(refused.value) == (
            f"{text!r} is no time for --budget; give a number above zero with s, m or h, as in 20m."
        )
