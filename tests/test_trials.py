"""What a trial's record says of its end, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfstep.record import Record
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
