"""Blocks side by side: who runs where, what ends them, and that the comparison is the one of blocks in turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfstep import codec
from halfstep.comparison import blocks, running
from halfstep.comparison.fit import parse_fit
from halfstep.comparison.request import Request, resumed, save, stored
from halfstep.comparison.slots import parse_parallel, slots
from halfstep.errors import UsageError
from halfstep.machine.support import Device
from halfstep.meters.load import LoadMeter
from halfstep.options import DEFAULTS
from halfstep.record import read
from halfstep.report.compared import compare
from halfstep.trials import Outcome, Trial
from halfstep.trials.place import Place, Stop
from halfstep.trials.process import MARK

from .test_archive import ENVIRONMENT, Quiet, written
from .test_archive import ran as ran
from .test_archive import request_ as request_

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cores are shared out on Linux alone")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Trial, Place]]:
    """The trials that were run side by side on two cores, and where; the first two wait for each other."""
    found: list[tuple[Trial, Place]] = []
    both = threading.Barrier(2, timeout=30)

    def run_trial(job: Any, trial: Trial, on_step: Any, place: Place, stop: Stop) -> Outcome:
        assert threading.current_thread() is not threading.main_thread()
        found.append((trial, place))
        if len(found) <= 2:
            both.wait()
        on_step(1, 0.5, None)
        request = Request(job.program, job.arguments, job.module, None, DEFAULTS, 1, 1, None, "", job.folder)
        path = written(request, trial)
        if trial == Trial("fp32", 1):
            path.write_text(
                path.read_text().replace(
                    '{"event":"end"', '{"event":"own_amp","what":"autocast"}\n{"event":"end"'
                )
            )
        return Outcome(trial, "ok", "", 0, read(path), seconds=1.5)

    monkeypatch.setattr(blocks, "run_trial", run_trial)
    monkeypatch.setattr("halfstep.comparison.slots.allowed_cores", lambda: (3, 5))
    monkeypatch.setattr("halfstep.trials.place.pin_thread", lambda cores: None)
    return found


def test_the_comparison_is_that_of_trials_in_turn(
    request_: Request, ran: list[Trial], beside: list[tuple[Trial, Place]], tmp_path: Path
) -> None:
    asked = replace(request_, repeats=2)
    told: list[str] = []

    class Told(Quiet):
        def advance(self, label: str, *step: Any) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.append(label)

    in_turn = codec.write(compare(replace(asked, folder=tmp_path / "turn"), Quiet()))
    found = codec.write(compare(replace(asked, parallel="2"), Told()))
    assert len(beside) == len(told) == 8
    at: dict[tuple[int, int], set[Any]] = {}
    for trial, place in beside:
        at.setdefault((trial.seed, trial.repeat), set()).add(place.cores)
    assert all(len(places) == 1 for places in at.values())  # a block stays where it is
    for cores in ((3,), (5,)):
        own = [(trial.seed, trial.repeat) for trial, place in beside if place.cores == cores]
        assert own[::2] == own[1::2]  # it runs to its end before another begins there
        assert [t.precision for t, place in beside if place.cores == cores] == ["fp32", "bf16"] * (
            len(own) // 2
        )
    assert {(t.seed, t.repeat) for t, _ in beside[:2]} == {(0, 0), (1, 0)}
    assert found["options"].pop("parallel") == "2"
    assert in_turn["options"].pop("parallel") is None
    assert found["environment"]["side_by_side"] == {"blocks": 2, "cores": 1}
    (warning,) = found["verdicts"][0]["warnings"]
    assert warning.startswith(
        "2 trials ran side by side, each on 1 core, and shared memory and caches: speed was measured"
    )
    assert all("other trials ran on the same processor" in t["energy_absent"] for t in found["trials"])
    names = ("precision", "seed", "repeat", "status", "losses", "step_seconds", "peak_memory_bytes", "ran_as")
    assert [[t[n] for n in names] for t in found["trials"]] == [
        [t[n] for n in names] for t in in_turn["trials"]
    ]
    for verdict, other in zip(found["verdicts"], in_turn["verdicts"], strict=True):
        assert {n for n in verdict if verdict[n] != other[n]} <= {"warnings", "energy_absent"}
    beside.clear()
    compare(replace(asked, parallel="2"), Quiet(), stored(asked.folder))
    assert beside == []
    with pytest.raises(UsageError, match=r"was made with parallel 2, not 3; leave that out to resume it"):
        resumed(stored(asked.folder), {"parallel": "3"})
    with pytest.raises(UsageError, match=r"was made with parallel none, not 2; leave that out to resume it"):
        resumed(stored(tmp_path / "turn"), {"parallel": "2"})


def test_a_row_that_is_added_runs_where_its_block_ran(
    request_: Request, ran: list[Trial], beside: list[tuple[Trial, Place]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "default_recipes", lambda environment: ("fp32", "bf16"))
    found: Any = compare(replace(request_, recipes=None, parallel="2"), Quiet())
    assert [(t.precision, t.seed) for t in found.trials] == [
        (precision, seed) for seed in (0, 1) for precision in ("fp32", "bf16", "as-is")
    ]
    at = {(trial.seed, place.cores) for trial, place in beside}
    assert len(at) == 2


def test_a_trial_that_other_work_disturbed_runs_again_where_its_block_ran(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, after all others; what it showed the second time is what counts."""
    found: list[tuple[Trial, Place]] = []
    noisy, lock = Trial("bf16", 1), threading.Lock()

    def run_trial(job: Any, trial: Trial, on_step: Any, place: Place, stop: Stop) -> Outcome:
        with lock:
            first = trial not in [each for each, _ in found]
            found.append((trial, place))
        waited = 5.0 if trial == noisy and first else 0.1
        load = {
            "wall_seconds": 10.0, "cores": 1, "own_seconds": 9.0, "children_seconds": 0.0, "others_seconds": waited,
            "waited_seconds": waited, "involuntary_switches": 100,
        }  # fmt: skip
        request = Request(job.program, job.arguments, job.module, None, DEFAULTS, 1, 1, None, "", job.folder)
        path = written(request, trial)
        path.write_text(path.read_text().replace('"event":"end"', f'"event":"end","load":{json.dumps(load)}'))
        return Outcome(trial, "ok", "", 0, read(path), seconds=1.5)

    monkeypatch.setattr(blocks, "run_trial", run_trial)
    monkeypatch.setattr("halfstep.comparison.slots.allowed_cores", lambda: (3, 5))
    monkeypatch.setattr("halfstep.trials.place.pin_thread", lambda cores: None)
    compared = compare(replace(request_, repeats=2, parallel="2"), Quiet())
    assert len(found) == 9
    assert found[-1][0] == noisy
    assert found[-1][1] == next(place for trial, place in found if trial == noisy)
    assert [t.disturbed for t in compared.trials] == [None] * 8


def test_what_a_display_raises_ends_all_trials(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    both = threading.Barrier(2, timeout=30)

    def run_trial(job: Any, trial: Trial, on_step: Any, place: Place, stop: Stop) -> Outcome:
        both.wait()
        on_step(1, 0.5, None)
        try:
            while True:
                stop.check()
        except KeyboardInterrupt as told:
            ended.append(str(told))
        return Outcome(trial, "interrupted", "", None, read(written(request_, trial, None)))

    class Failing(Quiet):
        def advance(self, *step: Any) -> None:
            raise RuntimeError("enough")

    monkeypatch.setattr(blocks, "run_trial", run_trial)
    monkeypatch.setattr("halfstep.comparison.slots.allowed_cores", lambda: (0, 1))
    monkeypatch.setattr("halfstep.trials.place.pin_thread", lambda cores: None)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="enough"):
        compare(replace(request_, parallel="2"), Failing())
    assert ended == ["an error"] * 2
    assert threading.active_count() == before


def test_ctrl_c_after_the_last_trial_ends_the_comparison(
    request_: Request, ran: list[Trial], beside: list[tuple[Trial, Place]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trial is interrupted by it, but what would follow, the search for a batch, does not begin."""

    class Pressed(Quiet):
        def finish(self, *ended: Any) -> None:
            self.ended: int = vars(self).get("ended", 0) + 1
            if self.ended == 4:
                signal.raise_signal(signal.SIGINT)

    searched: list[Any] = []
    monkeypatch.setattr(running, "fit_batch", lambda *args: searched.append(args))
    monkeypatch.setattr(running, "_check_limit", lambda *args: None)
    asked = replace(request_, parallel="2", fit=parse_fit("--batch"))
    assert [trial.status for trial in compare(asked, Pressed()).trials] == ["ok"] * 4
    assert searched == []
    compare(asked, Quiet(), stored(asked.folder))
    assert len(searched) == 1


GPUS = [
    Device("cpu", "A"),
    *(Device(f"cuda:{i}", "H200", "9.0") for i in range(4)),
]


@pytest.mark.parametrize(
    ("parallel", "devices", "environment", "launch", "found"),
    [
        ("", GPUS, {}, "torchrun", []),
        ("devices", GPUS[:2], {}, "", []),
        ("devices", GPUS, {}, "", ["0", "1", "2", "3"]),
        ("2", GPUS, {"CUDA_VISIBLE_DEVICES": "3,GPU-a,5,7"}, "", ["3", "GPU-a"]),
        ("5", GPUS, {}, "", "--parallel 5 needs 5 GPUs, one for each block, and the program sees 4; give at most 4"),
        ("2", GPUS, {}, "torchrun", "--parallel runs each block on one device, in one process; leave --launch"),
        ("2", [*GPUS, Device("cuda:4", "A100")], {}, "", "--parallel needs GPUs of one kind, and here are H200, A100"),
        ("2", [GPUS[0], Device("mps", "M4")], {}, "", "--parallel 2 needs NVIDIA or AMD GPUs, or a CPU alone"),
        ("devices", GPUS[:1], {}, "", "--parallel devices needs NVIDIA or AMD GPUs, or a CPU alone to share"),
        ("9", GPUS[:1], {}, "", "--parallel 9 needs 9 cores, one for each block, and the program may use 5; give at most 5"),
    ],
)  # fmt: skip
def test_each_block_has_a_device_or_cores_of_its_own(
    parallel: str,
    devices: Any,
    environment: dict[str, str],
    launch: str,
    found: list[str] | str,
    monkeypatch: Any,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("halfstep.comparison.slots.allowed_cores", lambda: (0, 1, 4, 5, 9))
    if isinstance(found, str):
        with pytest.raises(UsageError, match=found):
            slots(parallel, devices, launch)
    else:
        assert [place.forced["CUDA_VISIBLE_DEVICES"] for place in slots(parallel, devices, launch)] == found


def test_cores_are_shared_fairly_and_threads_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halfstep.comparison.slots.allowed_cores", lambda: (0, 1, 4, 5, 9))
    places = slots("2", GPUS[:1])
    assert [place.cores for place in places] == [(0, 1), (4, 5)]
    assert places[0].around({})["OMP_NUM_THREADS"] == "2"
    assert places[0].around({"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"  # as the user said


@pytest.mark.parametrize("text", ["1", "0", "-2", "two", "2.5", "1025", "²", "device"])
def test_what_is_no_number_of_blocks_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=f"--parallel was given '{text}'; give how many blocks run side by side"
    ):
        parse_parallel(text)


def test_a_place_holds_for_the_processes_that_a_thread_starts_and_for_no_other_thread() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    printed: list[str] = []

    def start() -> None:
        Place(cores=(core,)).enter()
        code = "import os; print(sorted(os.sched_getaffinity(0)))"
        printed.append(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert printed == [f"[{core}]\n"]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("cores", "busy"), [((1,), 30), ((0, 1), 40), ((0, 1, 2), 2040)])
def test_work_on_other_cores_takes_nothing(
    cores: tuple[int, ...], busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks of user time per core: 10, 30 and 2,000; a fourth column, idle, counts for nothing."""
    monkeypatch.setattr("halfstep.meters.load.allowed_cores", lambda: cores)
    stat = "cpu 2040 0 0 99 0 0 0 0\n" + "".join(
        f"cpu{i} {n} 0 0 33 0 0 0 0\n" for i, n in enumerate((10, 30, 2000))
    )
    assert LoadMeter()._busy(stat + "intr 5 6\n") == busy


def test_who_is_told_to_end_twice_is_made_to() -> None:
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    environment = {**os.environ, MARK: "of-this-test"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stop = Stop()
        stop.begin("of-this-test")
        stop.check()
        stop.tell("Ctrl-C")
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            stop.check()
        assert child.poll() is None
        stop.tell("Ctrl-C")
        assert child.wait(timeout=30) != 0


def test_a_damaged_number_of_blocks_is_a_sentence(request_: Request) -> None:
    save(replace(request_, parallel="2"), ENVIRONMENT)
    assert stored(request_.folder).request.parallel == "2"
    path = request_.folder / "request.json"
    path.write_text(path.read_text().replace('"parallel": "2"', '"parallel": 2'))
    with pytest.raises(UsageError, match="its parallel is damaged"):
        stored(request_.folder)
