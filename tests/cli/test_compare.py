"""``halfstep compare``: faults are rows, nothing is lost, and terminal, page and JSON tell the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import halfstep as package
from halfstep.cli.outputs import held

from .running import PROGRAMS, halfstep, kill_in_training, runs

FAULTY = str(PROGRAMS / "faulty.py")


@pytest.fixture(scope="module")
def healthy(compared) -> dict[str, Any]:
    """A script with AMP of its own, two repeats, everything by default."""
    return compared("--repeats", "2", str(PROGRAMS / "with_amp.py"), "--steps", "16")


def test_the_default_list_has_fp32_first_and_as_is_last(healthy: dict[str, Any]) -> None:
    names = [verdict["precision"] for verdict in healthy["verdicts"]]
    assert names[0] == "fp32"
    assert {"bf16", "fp16"} <= set(names)
    assert names[-1] == "as-is"
    assert all(trial["status"] == "ok" for trial in healthy["trials"])


def test_repeats_are_interleaved(healthy: dict[str, Any]) -> None:
    order = [(trial["repeat"], trial["precision"]) for trial in healthy["trials"]]
    assert [repeat for repeat, _ in order] == sorted(repeat for repeat, _ in order)


def test_a_trial_has_every_field(healthy: dict[str, Any]) -> None:
    fields = {
        "precision", "ran_as", "emulated", "seed", "status", "reason", "steps", "skipped_steps", "losses",
        "step_seconds", "peak_memory_bytes", "memory", "energy_joules", "matmul_share", "logged",
    }  # fmt: skip
    for trial in healthy["trials"]:
        assert fields <= trial.keys()
        assert trial["steps"] == len(trial["losses"]) == 16
        assert trial["step_seconds"].keys() == {"median", "low", "high"}
        assert trial["memory"].keys() == {"weights", "gradients", "optimizer", "activations", "casts"}
        assert "resident set" in trial["workspace_absent"]
        assert sum(trial["time_shares"].values()) == pytest.approx(1)
        assert trial["profiled_step"]["operations"] > 0
        assert trial["joules_per_step"] is not None or trial["joules_per_step_absent"]
        assert trial["energy_joules"] is not None or trial["energy_absent"]
        assert sum(trial["matmul_share"].values()) == pytest.approx(1)


def test_what_ran_is_what_was_asked(healthy: dict[str, Any]) -> None:
    ran = {trial["precision"]: trial["matmul_share"] for trial in healthy["trials"]}
    assert [ran[name] for name in ("fp32", "bf16", "fp16", "as-is")] == [
        {"fp32": 1.0}, {"bf16": 1.0}, {"fp16": 1.0}, {"bf16": 1.0}
    ]  # fmt: skip


def test_repeats_of_fp32_are_bit_identical(healthy: dict[str, Any]) -> None:
    first, second = (trial["losses"] for trial in healthy["trials"] if trial["precision"] == "fp32")
    assert first == second


def test_json_page_and_terminal_come_from_one_object(healthy: dict[str, Any]) -> None:
    saved = json.loads((healthy["folder"] / "comparison.json").read_text())
    assert saved["recommendation"] == healthy["recommendation"]
    assert package.load(healthy["folder"]).recommendation == healthy["recommendation"]
    page = (healthy["folder"] / "report.html").read_text()
    text = " ".join(healthy["done"].stdout.split())
    for verdict in healthy["verdicts"]:
        assert verdict["precision"] in page
        assert verdict["precision"] in text
    assert healthy["recommendation"]["text"] in text
    again = halfstep("report", str(healthy["folder"]))
    assert healthy["recommendation"]["text"] in " ".join(again.stdout.split())


def test_children_are_told_which_trial_they_are(compared) -> None:
    found = compared("--precisions", "fp32", "--seeds", "2", FAULTY)
    logs = [(found["folder"] / trial["log"]).read_text() for trial in found["trials"]]
    told = [json.loads(log[log.index("{") :]) for log in logs]
    assert told == [{"precision": "fp32", "seed": seed, "repeat": 0} for seed in (0, 1)]
    assert found["trials"][0]["losses"] != found["trials"][1]["losses"]


@pytest.mark.parametrize(
    ("fault", "status", "steps", "reason"),
    [
        ("no_training", "failed", 0, "ended without an optimizer step"),
        ("raise", "failed", 7, "RuntimeError: boom at step 7"),
        (
            "ask",
            "failed",
            7,
            "EOFError: EOF when reading a line; a comparison gives a program nothing to read on stdin",
        ),
        (
            "nan",
            "diverged",
            12,
            "the loss was nan from step 8 on; began in weight, a weight that was not finite before the step",
        ),
        (
            "sigkill",
            "failed",
            7,
            "killed by SIGKILL after 7 steps; the kernel does that when memory runs out",
        ),
        ("os_exit", "failed", 7, "ended at once with exit code 4 after 7 steps (os._exit or a crash)"),
    ],
)
def test_faults_are_rows(compared, fault: str, status: str, steps: int, reason: str) -> None:
    found = compared("--precisions", "fp32", FAULTY, fault)
    (trial,) = found["trials"]
    assert (trial["status"], trial["steps"], trial["reason"]) == (status, steps, reason)
    assert len(trial["losses"]) == steps
    assert found["done"].returncode == 1
    assert found["recommendation"]["precision"] is None


def test_out_of_memory_in_one_precision_only(compared) -> None:
    found = compared("--precisions", "fp32,bf16,bf16-true", FAULTY, "memory_in_bf16")
    assert [trial["status"] for trial in found["trials"]] == ["ok", "out_of_memory", "ok"]
    assert "out of memory" in found["trials"][1]["reason"]
    assert found["done"].returncode == 0


def test_a_budget_ends_when_every_verdict_is_certain(compared) -> None:
    found = compared("--precisions", "fp32,bf16", "--budget", "10m", FAULTY, "memory_in_bf16")
    assert sorted((t["precision"], t["status"]) for t in found["trials"]) == [
        ("bf16", "out_of_memory"), ("fp32", "ok")
    ]  # fmt: skip
    assert (found["budget"]["seconds"], found["budget"]["end"], found["missing"]) == (600.0, "certain", [])
    assert found["recommendation"]["precision"] == "fp32"
    printed = " ".join(found["done"].stdout.split())
    assert "Stopped: every verdict is certain." in printed
    assert "The verdicts hold for the first 12 steps." in printed


def test_a_program_that_hangs_is_timed_out(compared) -> None:
    found = compared("--precisions", "fp32", "--time-limit", "25", FAULTY, "hang")
    (trial,) = found["trials"]
    assert trial["status"] == "timed_out"
    assert trial["reason"] == "ran longer than the time limit of 25 s; 7 steps were made"
    assert trial["steps"] == 7


def test_a_precision_that_the_hardware_lacks_is_a_row(compared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = compared("--precisions", "fp32,tf32", FAULTY)
    assert found["trials"][1]["status"] == "unsupported"
    assert found["trials"][1]["reason"] == (
        "Precision tf32 cannot run here: a CPU has no TF32 units; --emulate rounds to it inside fp32 tensors."
    )


@pytest.mark.long
@pytest.mark.parametrize(("sign", "words"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_comparison_that_is_told_to_end_reports_what_there_is(
    tmp_path: Path, sign: signal.Signals, words: str
) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "halfstep",
            "compare",
            "--precisions",
            "fp32,bf16",
            "--out",
            "o",
            FAULTY,
            "hang",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        record = tmp_path / "o" / "trials" / "fp32-seed0-repeat0.jsonl"
        while not record.exists() or record.read_text().count('"step"') < 7:
            time.sleep(0.05)
            assert child.poll() is None
        os.kill(child.pid, sign)
        out, _ = child.communicate(timeout=60)
    found = package.load(tmp_path / "o")
    assert [trial["status"] for trial in found.trials] == ["interrupted"]
    assert found.trials[0]["steps"] == 7
    assert found.trials[0]["reason"] == f"interrupted by {words} after 7 steps"
    assert "interrupted" in out
    assert not runs(json.loads(record.read_text().splitlines()[0])["pid"])


@pytest.mark.long
@pytest.mark.parametrize("fault", ["hang", "leave"])
def test_the_trial_of_a_comparison_that_is_killed_ends_and_is_not_done(tmp_path: Path, fault: str) -> None:
    record = tmp_path / "o" / "trials" / "fp32-seed0-repeat0.jsonl"
    kill_in_training(record, 7, "--precisions", "fp32,bf16", "--out", "o", FAULTY, fault, cwd=tmp_path)
    found = package.load(tmp_path / "o")
    assert [(t["status"], t["steps"]) for t in found.trials] == [("interrupted", 7)]
    assert found.trials[0]["reason"] == "halfstep, which ran it, was killed"
    assert found.data["missing"] == ["fp32-seed0-repeat0", "bf16-seed0-repeat0"]


def test_the_second_of_two_in_one_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    folder.mkdir()
    with held(folder):  # as one does that has only begun
        told = [halfstep(command, "--out", "o", FAULTY, cwd=tmp_path) for command in ("compare", "diagnose")]
    assert sorted(path.name for path in folder.rglob("*")) == [".lock", "trials"]
    record = folder / "trials" / "fp32-seed0-repeat0.jsonl"
    arguments = ("--precisions", "fp32", "--out", "o", FAULTY, "hang")

    def resume() -> None:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        told.append(halfstep("compare", "--resume", "o", cwd=tmp_path))
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    kill_in_training(record, 7, *arguments, cwd=tmp_path, meanwhile=resume)
    for done in told:
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"halfstep: Another halfstep is running in {str(folder)!r}; wait until it has ended, or give --out another "
            "folder.\n"
        )
    with held(folder):
        pass  # it is free again


def test_a_folder_that_cannot_be_written_is_said_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = halfstep("compare", "--out", "file/out", FAULTY, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("halfstep: Cannot write to the folder ")
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_a_launcher_that_is_not_there_is_said_before_any_training(tmp_path: Path, command: str) -> None:
    done = halfstep(command, "--launch", "torchrn --nproc-per-node 2", "--out", "out", FAULTY, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "halfstep: There is no program 'torchrn' to launch with; give --launch one on PATH, or its whole path.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_launcher_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    done = halfstep("compare", "--launch", "torchrun '--nproc", FAULTY, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        'halfstep: --launch is "torchrun \'--nproc" (No closing quotation); close its quotes.\n'
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU has memory of its own to fit into")
def test_a_batch_needs_something_to_fit_into(tmp_path: Path) -> None:
    done = halfstep("compare", "--fit-batch", "--batch-size", FAULTY, cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "--fit-batch on a CPU needs --memory-limit, because a CPU with too little memory swaps" in done.stderr
    )
    assert "give a size, e.g. --memory-limit " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.py"], "none.py"),
        (["--precisions", "fp32,fp17", FAULTY], "Unknown precision 'fp17'"),
        (
            ["--budget", "soon", FAULTY],
            "'soon' is no time for --budget; give a number above zero with s, m or h",
        ),
        (
            ["--budget", "20m", "--seeds", "5", FAULTY],
            "--budget 20m was given with --seeds, and decides on seeds and repeats itself; leave one of the two out.",
        ),
        (["--json", "/proc/none/c.json", FAULTY], "Cannot write '/proc/none/c.json'"),
        (
            ["--memory-limit", "2GiB", FAULTY],
            "--memory-limit 2GiB was given without --fit-batch, and is only for that",
        ),
        (
            ["--fit-batch", "images=", FAULTY],
            "--fit-batch was given 'images='; give the program's own option",
        ),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = halfstep("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert list(tmp_path.glob("halfstep-out/*/trials/*.jsonl")) == []
