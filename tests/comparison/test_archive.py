"""Resuming and rebuilding: what is run again, what is not, and what is refused; the trials are written, not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import halfstep
from halfstep import codec
from halfstep.comparison import archive, running
from halfstep.comparison.fit import FitOption
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.model.fit import Fit
from halfstep.comparison.request import Request, check_machine, resumed, save, stored
from halfstep.comparison.running import plan
from halfstep.comparison.statistics.tolerance import parse_tolerance
from halfstep.errors import UsageError
from halfstep.machine.support import Device, Kind, Support
from halfstep.meters import Absent
from halfstep.options import DEFAULTS
from halfstep.record import SCHEMA, Writer, read
from halfstep.report.compared import compare, rebuilt
from halfstep.report.loading import rebuild
from halfstep.trials import Outcome, Trial, records_at

ENVIRONMENT = Environment(
    cpu="A", python="3.11.7", frameworks={"torch": "2.13.0"}, devices=(Device(name="A"),), memory_bytes=2**33
)


class Quiet:
    """A display that shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("# a program\n")
    return Request(
        "train.py", ("--lr", "1"), False, ("fp32", "bf16"), DEFAULTS, 1, 2, None, "", tmp_path / "out",
        parse_tolerance(["0.01"]),
    )  # fmt: skip


def written(
    request: Request, trial: Trial, status: str | None = "ok", steps: int = 12, began: int = 0
) -> Path:
    """The record that a trial leaves; without a status it was killed."""
    path = request.job.record(trial)
    writer = Writer(path)
    writer.write(
        "start", schema=SCHEMA, precision=trial.precision, seed=trial.seed, repeat=trial.repeat,
        started=f"2026-01-01T00:00:{began + trial.seed:02}",
    )  # fmt: skip
    writer.write("takeover", framework="torch", device="cpu", ran_as=trial.precision, seconds=0.1)
    other = 0.001 * (trial.precision != "fp32")
    for i in range(steps):
        writer.write(
            "step",
            step=i,
            loss=2.0 - 0.1 * i + 0.01 * trial.seed + other,
            seconds=0.1 if i else None,
            skipped=False,
        )
    if status is not None:
        writer.write("end", status=status, reason="", exit_code=0, steps=steps, peak_memory_bytes=10**6)
    return path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that were run, in order; each is only written."""
    found: list[Trial] = []

    def run_trial(job: Any, trial: Trial, on_step: Any) -> Outcome:
        found.append(trial)
        request = Request(job.program, job.arguments, job.module, None, DEFAULTS, 1, 1, None, "", job.folder)
        return Outcome(trial, "ok", "", 0, read(written(request, trial)), seconds=1.5)

    monkeypatch.setattr(running, "run_trial", run_trial)
    monkeypatch.setattr(running, "this_machine", lambda: ENVIRONMENT)
    monkeypatch.setattr(running, "idle_watts", lambda *args: Absent("no counter"))
    return found


def test_a_request_is_read_back_as_it_was(request_: Request) -> None:
    save(request_, ENVIRONMENT)
    assert stored(request_.folder).request == request_


def test_only_what_is_missing_is_run_again(request_: Request, ran: list[Trial]) -> None:
    save(request_, ENVIRONMENT)
    done, killed, interrupted, never = plan(["fp32", "bf16"], 1, 2)
    written(request_, done)
    written(request_, killed, status=None)
    archive.keep(
        request_,
        Outcome(
            interrupted, "interrupted", "by Ctrl-C", None, read(written(request_, interrupted, "interrupted"))
        ),
    )
    found = codec.write(compare(request_, Quiet(), stored(request_.folder)))
    assert ran == [killed, interrupted, never]
    assert [t["status"] for t in found["trials"]] == ["ok"] * 4
    ran.clear()
    again = codec.write(compare(request_, Quiet(), stored(request_.folder)))
    assert ran == []
    assert again["verdicts"] == found["verdicts"]


BUSY = {"wall_seconds": 10.0, "cores": 2, "own_seconds": 10.0, "others_seconds": 10.0, "waited_seconds": 5.0,
        "involuntary_switches": 9}  # fmt: skip


@pytest.mark.parametrize("repeat", ["ok", "interrupted", "killed"])
def test_a_disturbed_trial_stays_until_its_repeat_has_ended(
    request_: Request, monkeypatch: pytest.MonkeyPatch, ran: list[Trial], repeat: str
) -> None:
    """One of three was disturbed, and is run once more: well, until Ctrl-C, or until halfstep is killed."""
    request_ = replace(request_, recipes=("fp32", "bf16", "fp16"), repeats=2, seeds=1)
    victim, runs = Trial("bf16", 0, 1), 0
    at = request_.job.record(victim)

    def run_trial(job: Any, trial: Trial, on_step: Any) -> Outcome:
        nonlocal runs
        runs += trial == victim
        second = trial == victim and runs == 2
        inner = replace(request_, folder=job.folder)
        status = "interrupted" if second and repeat == "interrupted" else "ok"
        record = written(
            inner, trial, None if second and repeat == "killed" else status, 13 if second else 12
        )
        if trial == victim and not second:
            record.with_name(f"{record.name}.rank1").write_bytes(record.read_bytes())
            lines = record.read_text().splitlines()
            record.write_text(
                "\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | {"load": BUSY})]) + "\n"
            )
        if second:
            before = [(o.trial, o.status, len(o.record.steps)) for o in archive.outcomes(request_)]
            assert (victim, "ok", 12) in before, "the first run is there to be read"
            assert len(before) == 6
            if repeat == "killed":
                raise SystemExit
        job.log(trial).write_text(str(runs))
        return Outcome(trial, status, "", 0, *records_at(record), seconds=1.5)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "run_trial", run_trial)
    if repeat == "killed":
        with pytest.raises(SystemExit):
            compare(request_, Quiet())
        monkeypatch.setattr(running, "_to_repeat", lambda *args: [])
        found = compare(request_, Quiet(), stored(request_.folder))
    else:
        found = compare(request_, Quiet())
    steps = {(t.precision, t.repeat): t.steps for t in found.trials}
    assert (runs, len(steps), steps[("bf16", 1)]) == (2, 6, 13 if repeat == "ok" else 12)
    assert [t.status for t in found.trials] == ["ok"] * 6
    assert codec.write(rebuilt(request_.folder).trials) == codec.write(found.trials)
    assert not (request_.folder / "again").exists()
    assert at.with_name(f"{at.name}.rank1").exists() is (repeat != "ok")


def test_resuming_counts_the_trials_that_are_left(request_: Request, ran: list[Trial]) -> None:
    class Counting(Quiet):
        planned: ClassVar[list[int]] = []

        def plan(self, trials: list[str]) -> None:
            self.planned.append(len(trials))

    save(request_, ENVIRONMENT)
    written(request_, plan(["fp32", "bf16"], 1, 2)[0])
    compare(request_, Counting(), stored(request_.folder))
    assert (len(ran), Counting.planned) == (3, [3, 3, 3])


def test_an_interrupted_trial_is_run_again_whatever_a_rank_said_and_nothing_of_it_is_left(
    request_: Request, ran: list[Trial]
) -> None:
    request_ = replace(request_, seeds=1, recipes=("fp32",))
    save(request_, ENVIRONMENT)
    record = written(request_, Trial("fp32"), "interrupted")
    rank = record.with_name(f"{record.name}.rank1")
    rank.write_text('{"event": "start", "rank": 1}\n')
    assert [(o.status, len(o.ranks)) for o in archive.outcomes(request_)] == [("interrupted", 1)]
    compare(request_, Quiet(), stored(request_.folder))
    assert ran == [Trial("fp32")]
    assert not rank.exists()


def test_more_seeds_run_only_the_new_ones(request_: Request, ran: list[Trial]) -> None:
    compare(request_, Quiet())
    ran.clear()
    more = resumed(stored(request_.folder), {"seeds": 3, "prefer": "memory"})
    found = codec.write(compare(more, Quiet(), stored(request_.folder)))
    assert ran == [Trial("fp32", 2), Trial("bf16", 2)]
    assert found["options"]["seeds"] == 3
    assert found["verdicts"][1]["quality"]["seeds"] == 3
    assert found["recommendation"]["prefer"] == "memory"


def test_a_trial_out_of_time_is_run_again_only_with_more_of_it(request_: Request) -> None:
    late = Outcome(Trial("fp32"), "timed_out", "", None, read(written(request_, Trial("fp32"))))
    assert archive.done([late]) == [late]
    assert archive.done([late], time_limit_raised=True) == []


def test_rebuilding_gives_the_same_object(request_: Request, ran: list[Trial]) -> None:
    found = codec.write(compare(request_, Quiet()))
    assert found["missing"] == []
    assert codec.write(rebuilt(request_.folder)) == json.loads(json.dumps(found))
    (request_.folder / "comparison.json").unlink()
    assert halfstep.load(request_.folder).verdicts == found["verdicts"]
    (request_.folder / "comparison.json").write_text("{")
    assert rebuild(request_.folder).verdicts == found["verdicts"]


def test_a_trial_that_was_run_again_last_is_a_row_in_its_place(request_: Request) -> None:
    """Disturbed trials are run again after all others."""
    asked = replace(request_, recipes=None, seeds=1)
    kinds: dict[str, Kind] = {"fp32": "native", "tf32": "impossible", "bf16": "native", "fp16": "native"}
    device = Device(name="A", precisions={name: Support(kind) for name, kind in kinds.items()})
    save(asked, replace(ENVIRONMENT, devices=(device,)))
    for precision, began in {"fp16": 1, "bf16": 8, "fp32": 9}.items():
        written(asked, Trial(precision), began=began)
    found = codec.write(rebuilt(asked.folder))
    assert [row["precision"] for row in found["trials"]] == ["fp32", "bf16", "fp16"]
    assert [row["precision"] for row in found["verdicts"]] == ["fp32", "bf16", "fp16"]


def test_batches_that_fit_are_evidence_for_memory_and_stay_where_it_is_drawn_again(
    request_: Request, ran: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"precision": "fp32", "largest": 8, "fails_at": 9},
        {"precision": "bf16", "largest": 12, "fails_at": 13},
    ]
    fit = codec.read(Fit, {"name": "images", "argument": "--batch", "rows": rows})
    monkeypatch.setattr(running, "fit_batch", lambda *args: fit)
    found = codec.write(
        compare(
            replace(request_, prefer="memory", fit=FitOption("images", "--batch"), memory_limit=9), Quiet()
        )
    )
    assert found["recommendation"]["rule"] == "largest_batch"
    assert {
        "text": "bf16: a batch of 12 images fits, 1.50× fp32's 8",
        "evidence": "fit_batch.rows[1].largest",
    } in (found["recommendation"]["reasons"])
    assert codec.write(rebuilt(request_.folder)) == json.loads(json.dumps(found))
    whole = json.loads((request_.folder / "comparison.json").read_text())
    (request_.folder / "comparison.json").write_text(json.dumps(whole | {"fit_batch": {"rows": 3}}))
    assert "fit_batch" not in codec.write(rebuilt(request_.folder))


def test_an_unfinished_comparison_is_drawn_with_what_there_is(request_: Request) -> None:
    save(request_, ENVIRONMENT)
    written(request_, Trial("fp32"))
    written(request_, Trial("bf16"), status=None, steps=7)
    found = codec.write(rebuilt(request_.folder))
    assert [(t["precision"], t["status"], t["steps"]) for t in found["trials"]] == [
        ("fp32", "ok", 12), ("bf16", "interrupted", 7)
    ]  # fmt: skip
    assert found["trials"][1]["reason"] == "no end is recorded: killed, or still running; 7 steps were made"
    assert found["missing"] == ["bf16-seed0-repeat0", "fp32-seed1-repeat0", "bf16-seed1-repeat0"]


def test_nothing_to_draw_is_said(request_: Request, tmp_path: Path) -> None:
    save(request_, ENVIRONMENT)
    with pytest.raises(UsageError, match="has left a record yet; resume it with `--resume`"):
        codec.write(rebuilt(request_.folder))
    with pytest.raises(
        UsageError, match=r"No comparison was begun in .* \(No such file or directory\); give a folder"
    ):
        stored(tmp_path / "nowhere")
    (request_.folder / "request.json").write_text('{"schema": "halfstep/request/9"}')
    with pytest.raises(
        UsageError, match=r"is not a request of this version \(schema 'halfstep/request/9'\); start a new"
    ):
        stored(request_.folder)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"steps": 4},
            "was made with steps none, not 4; leave that out to resume it, or start a new comparison.",
        ),
        ({"arguments": ("--lr", "2")}, "was made with arguments --lr 1, not --lr 2; leave that out"),
        ({"recipes": ("fp32",)}, "was made with recipes fp32 bf16, not fp32; leave that out"),
    ],
)
def test_other_trials_are_not_a_resumption(request_: Request, given: dict[str, Any], sentence: str) -> None:
    save(request_, ENVIRONMENT)
    with pytest.raises(UsageError) as told:
        resumed(stored(request_.folder), given)
    assert sentence in str(told.value)
    assert resumed(stored(request_.folder), {name: request_.option(name) for name in given}) == request_


def test_a_changed_program_or_another_folder_or_machine_is_refused(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(request_, ENVIRONMENT)
    old = stored(request_.folder)
    check_machine(old.environment, ENVIRONMENT)
    with pytest.raises(
        UsageError, match=r"other versions \(frameworks: torch 2.13.0 there, torch 2.14.0 here\)"
    ):
        check_machine(old.environment, replace(ENVIRONMENT, frameworks={"torch": "2.14.0"}))
    with pytest.raises(UsageError, match=r"\(processor: A there, B here\); resume it there"):
        check_machine(old.environment, replace(ENVIRONMENT, cpu="B"))
    (tmp_path / "train.py").write_text("# another program\n")
    with pytest.raises(
        UsageError, match=r"'train.py' has changed since the comparison in .* was started; start a new"
    ):
        resumed(old, {})
    monkeypatch.chdir("/")
    with pytest.raises(UsageError, match="was started in .*; resume it from there"):
        resumed(old, {})


def test_precisions_keep_their_order_and_as_is_comes_last(request_: Request) -> None:
    by_default = replace(request_, recipes=None)
    save(by_default, ENVIRONMENT)
    for name in ("fp32", "as-is", "bf16"):
        written(by_default, Trial(name))
    assert [o.trial.precision for o in archive.outcomes(by_default)][-1] == "as-is"


def kept(request: Request, trial: Trial, status: str = "ok") -> Path:
    """The record of a trial that has ended, with its end beside it."""
    path = written(request, trial)
    archive.keep(request, Outcome(trial, status, "", 0, read(path)))  # type: ignore[arg-type]
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_a_step(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:6] + lines[7:]))


def with_another_loss(path: Path) -> None:
    path.write_text(path.read_text().replace('"loss":1.5', '"loss":1.4'))


def of_another_schema(path: Path) -> None:
    path.write_text(path.read_text().replace(SCHEMA, "halfstep/record/9"))


@pytest.mark.parametrize(
    "harm", [cut, emptied, without_a_step, with_another_loss, Path.unlink, of_another_schema]
)
def test_a_damaged_record_is_no_figure_and_its_trial_is_run_again(
    request_: Request, ran: list[Trial], harm: Callable[[Path], None]
) -> None:
    """Although the file beside it says that the trial ended well."""
    save(request_, ENVIRONMENT)
    trials = plan(["fp32", "bf16"], 1, 2)
    paths = [kept(request_, trial) for trial in trials]
    harm(paths[2])
    rows = {t["precision"] + str(t["seed"]): t for t in codec.write(rebuilt(request_.folder))["trials"]}
    row = rows.pop("fp321")
    assert (row["status"], row["steps"], row["losses"], row["step_times"]) == ("damaged", 0, [], [])
    assert row["peak_memory_bytes"] is None
    assert row["reason"].startswith("its record cannot be used: ")
    assert [(t["status"], t["steps"]) for t in rows.values()] == [("ok", 12)] * 3
    found = codec.write(compare(request_, Quiet(), stored(request_.folder)))
    assert ran == [trials[2]]
    assert [t["status"] for t in found["trials"]] == ["ok"] * 4


def test_a_hole_in_a_record_without_an_end_beside_it_is_seen_too(request_: Request, ran: list[Trial]) -> None:
    save(request_, ENVIRONMENT)
    without_a_step(written(request_, Trial("fp32")))
    (row,) = codec.write(rebuilt(request_.folder))["trials"]
    assert (row["status"], row["losses"]) == ("damaged", [])
    assert row["reason"] == "its record cannot be used: step 5 is missing from it"


@pytest.mark.parametrize(
    "end",
    [
        "",
        "{",
        "[]",
        "7",
        '{"precision": 3}',
        "[" * 99999,
        '{"status": "fine"}',
        "\udcff",
        '{"seconds": 1e999}',
    ],
    ids=lambda end: end[:20],
)
def test_a_damaged_end_is_none(request_: Request, ran: list[Trial], end: str) -> None:
    """The record itself tells how the trial ended."""
    save(request_, ENVIRONMENT)
    path = kept(request_, Trial("fp32"))
    whole = json.loads(path.with_suffix(".end.json").read_text())
    text = json.dumps(whole | json.loads(end)) if end.startswith('{"') else end
    path.with_suffix(".end.json").write_text(text, errors="surrogateescape")
    (row,) = codec.write(rebuilt(request_.folder))["trials"]
    assert (row["status"], row["steps"], row["seconds"]) == ("ok", 12, 0.0)


def test_each_recipe_has_a_file_of_its_own_however_long(request_: Request) -> None:
    names = ["fp16:keep=[0]", "fp16:keep=*0*", "fp16:keep=_0_", "fp16:keep=a,b", "fp16:keep=A", "fp16:keep=a"]
    names += [f"fp16:keep={'layer.' * 60}{i}" for i in range(2)]
    paths = [request_.job.record(Trial(name)) for name in names]
    assert len({str(path).lower() for path in paths}) == len(names)
    assert max(len(path.name) for path in paths) < 130
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert (
        request_.job.record(Trial("fp16:init_scale=1024")).name == "fp16_init_scale=1024-seed0-repeat0.jsonl"
    )
