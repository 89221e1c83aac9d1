"""What a trial's record says of its end, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfstep.record import Record, plain
from halfstep.trials import Job, judge

JOB = Job("train.py", (), False, Path("out"))


@pytest.mark.parametrize(
    ("exception", "reason", "hint"),
    [
        (
            "EOFError",
            "EOFError: EOF when reading a line",
            "; a comparison gives a program nothing to read on stdin",
        ),
        (
            "TypeError",
            "TypeError: Got unsupported ScalarType BFloat16",
            "; NumPy has no bf16, so the program has to write .float().numpy()",
        ),
        ("RuntimeError", "RuntimeError: boom", ""),
    ],
)
def test_an_exception_that_says_too_little_gets_a_hint(exception: str, reason: str, hint: str) -> None:
    record = Record(Path("r"), end={"status": "failed", "reason": reason, "exception": exception})
    assert judge(JOB, record, [], 1, None, "Ctrl-C") == ("failed", reason + hint)


def test_pytorch_says_so_in_these_words() -> None:
    """So that a later version which words it otherwise is noticed."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="unsupported ScalarType BFloat16"):
        torch.ones(1, dtype=torch.bfloat16).numpy()


def ended(losses: list[float | None], skipped: list[bool]) -> Record:
    """A trial that ran to its end with these losses and skipped steps."""
    record = Record(Path("r"), end={"status": "ok", "reason": ""})
    for step, (loss, skip) in enumerate(zip(losses, skipped, strict=True)):
        record.add({"event": "step", "step": step, "loss": plain(loss), "skipped": skip})
    return record


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "skipped", "status", "said"),
    [
        ([1.0] * 40, [True] * 40, "diverged", "40 of 40 steps were skipped"),
        ([1.0] * 40, [False, True] * 20, "diverged", "20 of 40 steps were skipped"),
        ([1.0] * 40, [True] * 18 + [False] * 22, "ok", ""),
        ([1.0] * 12, [True] * 7 + [False] * 5, "ok", ""),
        ([1.0] * 12, [True] * 9 + [False] * 3, "ok", ""),
        ([1.0] * 2000, [step % 100 == 99 for step in range(2000)], "ok", ""),
        ([NAN, 1.0] * 20, [False] * 40, "diverged", "the loss was not finite in 20 of 40 steps"),
        ([NAN] * 3 + [1.0] * 37, [True] * 3 + [False] * 37, "ok", ""),
        ([1.0] * 5 + [NAN] * 3, [False] * 8, "diverged", "the loss was nan from step 6 on"),
        ([None] * 40, [False] * 40, "ok", ""),
    ],
)
def test_a_training_that_went_astray_is_not_ok(
    losses: list[float | None], skipped: list[bool], status: str, said: str
) -> None:
    """A few skipped steps while the loss scale is found are none of it."""
    found, reason = judge(JOB, ended(losses, skipped), [], 0, None, "Ctrl-C")
    assert found == status
    assert reason.startswith(said)
    assert bool(reason) == bool(said)
