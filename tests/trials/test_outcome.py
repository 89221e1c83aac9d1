"""What a trial's record says of its end, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from halfstep.record import Record, plain
from halfstep.trials import Job, Trial, judge
from halfstep.trials.outcome import Outcome, outcome_of

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
        ("ArithmeticError", "ArithmeticError: boom", ""),
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
        (
            [1.0] * 40,
            [True] * 3 + [False] * 27 + [True] * 5 + [False] * 5,
            "diverged",
            "8 of 40 steps were skipped",
        ),
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


def failed(precision: str, message: str, **at: object) -> str:
    """The reason of a trial that ended with this message."""
    record = Record(Path("r"), start={"precision": precision})
    record.end |= {"status": "failed", "reason": message, "exception": "RuntimeError", "raised_at": at}
    return judge(JOB, record, [], 1, None, "Ctrl-C")[1]


@pytest.mark.parametrize(
    "message",
    [
        "FlashAttention only support fp16 and bf16 data type",
        "expected scalar type BFloat16 but found Float",
        "\"fused_rope\" not implemented for 'Float'",
        "Expected mat_a to be BFloat16 matrix got Float",
        "No available kernel. Aborting execution.",
    ],
)
def test_a_kernel_for_16_bits_alone_in_a_row_of_fp32(message: str) -> None:
    for precision in ("fp32", "tf32"):
        assert failed(precision, message, place="train.py:30", modules=["attn"]) == (
            f"{message.rstrip('.')}; {precision} causes it: the operation supports 16-bit numbers only, and under fp32 "
            "its operands are fp32 at train.py:30; choose it by the operands' dtype, as F.scaled_dot_product_attention does, or name "
            "the precisions to compare without fp32"
        )
    assert failed("as-is", message, place="train.py:30", modules=["attn"]) == message


def test_a_layer_that_onednn_cannot_compute_in_16_bits() -> None:
    """An LSTM in fp16 on a CPU without the units; the message names no dtype."""
    message = "could not create a primitive descriptor for the LSTM forward propagation primitive. Run workload with ..."
    assert failed("fp16", message, place="train.py:30", modules=["lstm"]).endswith(
        "; fp16 causes it: this CPU cannot compute the layer in 16 bits at train.py:30; compute it in fp32, with .float() "
        "before it, or run with fp16:keep=lstm"
    )
    assert failed("fp32", message, place="train.py:30", modules=["lstm"]) == message


def message_of(operation: Callable[[], object]) -> str:
    with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
        operation()
    return str(caught.value).splitlines()[0]


def test_an_error_of_a_format_says_what_causes_it_where_and_the_cure() -> None:
    torch = pytest.importorskip("torch")
    message = message_of(
        lambda: torch.zeros(4).index_put_((torch.tensor([1]),), torch.ones(1, dtype=torch.bfloat16))
    )
    assert failed("bf16", message, place="train.py:30", modules=["enc"]) == (
        f"{message.rstrip('.')}; bf16 causes it: 16-bit numbers are put into an fp32 tensor at train.py:30; write "
        "x[i] = y.to(x.dtype), or run with bf16:keep=enc"
    )
    assert failed("fp32", message, place="train.py:30", modules=["enc"]) == message
    assert "or run with" not in failed("fp16:keep=head", message, place="train.py:30", modules=["enc"])
    assert failed("fp16", message).endswith("an fp32 tensor; write x[i] = y.to(x.dtype)")


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("assert x.dtype == torch.bfloat16", "AssertionError at train.py:30", True),
        ("raise TypeError(given)", "TypeError: bf16 weights were expected", True),
        ("assert len(x) == 3", "AssertionError at train.py:30", False),
        ("x.view(3, dtype=torch.int8)", "boom", False),
    ],
)
def test_a_dtype_that_the_program_checks(code: str, message: str, said: bool) -> None:
    for precision in ("fp32", "bf16"):
        reason = failed(precision, message, place="train.py:30", code=code)
        cause = (
            f"; {precision} may cause it: the program checks a dtype that the precision decides at train.py:30; leave "
            "the check out, or run the program as-is"
        )
        assert reason == message + (cause if said else "")
    assert failed("as-is", message, place="train.py:30", code=code) == message


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_pytorchs_messages_of_formats_are_known() -> None:
    """So that a later version which words them otherwise is noticed; other errors are none of a format's."""
    torch = pytest.importorskip("torch")
    half, single = torch.ones(2, 2, dtype=torch.float16), torch.ones(2, 2)
    for operation in (
        lambda: torch.mm(half, single),
        lambda: torch.nn.functional.linear(single, half),
        lambda: torch.dot(half[0], single[0]),
        lambda: torch.linalg.cholesky(half),
        lambda: torch.linalg.qr(half),
        lambda: torch.fft.fft(half),
        lambda: torch.addmm(single, half, half),
        lambda: torch.zeros(2, 2).index_add_(0, torch.tensor([0]), half[:1]),
        lambda: torch.zeros(2, 2).scatter_(0, torch.zeros(1, 2, dtype=torch.long), half[:1]),
        lambda: torch.zeros(2, 2).masked_scatter_(single > 0, half),
        lambda: torch.nn.functional.scaled_dot_product_attention(half[None], single[None], single[None]),
        lambda: torch.nn.LSTM(2, 2)(half[None]),
        lambda: torch.mm(half, half, out=single.clone()),
        lambda: torch.nn.functional.conv1d(half[None], single[None]),
        lambda: half.masked_fill(single > 0, -1e9),
        lambda: half.clamp(-1e9, 1e9),
        lambda: torch.quantile(half, 0.5),
        lambda: torch.prelu(half, single[0, :1]),
        lambda: torch.lerp(single, half, 0.5),
        lambda: torch.baddbmm(single[None], half[None], single[None]),
        lambda: torch.linalg.matrix_rank(half),
        lambda: torch.histogram(single, 2, weight=half),
        lambda: torch.linalg.multi_dot([half, single, half]),
        lambda: torch.view_as_complex(half) @ torch.view_as_complex(half),
        lambda: torch.fft.fft(half * 1j),
        lambda: torch.nn.functional.binary_cross_entropy(half.requires_grad_(), single).backward(),
    ):
        message = message_of(operation)
        assert "fp16 causes it" in failed("fp16", message), message
    low = half.bfloat16()
    for operation in (
        lambda: torch.complex(low, low),
        lambda: torch.view_as_complex(low),
        lambda: torch.nn.functional.embedding_bag(
            torch.tensor([[0, 1]]), single, per_sample_weights=low[:1], mode="sum"
        ),
    ):
        message = message_of(operation)
        assert "bf16 causes it" in failed("bf16", message), message
    for message in (
        "shapes did not match",
        "boom",
        "mat1 and mat2 shapes cannot be multiplied (2x2 and 3x3)",
    ):
        assert failed("fp16", message) == message


@pytest.mark.parametrize(
    "message",
    [
        "TypeError: Input 'y' of 'AddV2' Op has type float32 that does not match type bfloat16 of argument 'x'.",
        "TypeError: Tensors in list passed to 'values' of 'ConcatV2' Op have types [bfloat16, float32] that don't all match.",
        "ValueError: Tensor conversion requested dtype float32 for Tensor with dtype bfloat16: <tf.Tensor 'Cast:0'>",
        "TypeError: Value passed to parameter 'input' has DataType bfloat16 not in list of allowed values: float32",
        "InvalidArgumentError: Value for attr 'T' of bfloat16 is not in the list of allowed values: double, float, half",
        "NotFoundError: Could not find device for node: {{node Lgamma}} = Lgamma[T=DT_BFLOAT16]",
        "InvalidArgumentError: TensorArray dtype is float32 but Op is trying to write dtype bfloat16",
        "TypeError: scan body function carry input and carry output must have equal types, but they differ: float32[4], bfloat16[4]",
        "NotImplementedError: (KeyError(<class 'ml_dtypes.bfloat16'>), 'Unsupported dtype bfloat16.')",
        "TypeError: complex does not accept dtype bfloat16 at position 0.",
    ],
)
def test_messages_of_tensorflow_and_jax_are_known(message: str) -> None:
    """As TensorFlow 2.21 and JAX 0.10 word them."""
    assert "bf16 causes it" in failed("bf16", message)


def test_a_format_that_is_only_allowed_is_no_cause() -> None:
    message = "InvalidArgumentError: Value for attr 'T' of int32 is not in the list of allowed values: bfloat16, half"
    assert failed("bf16", message) == message


def test_the_reason_of_a_trial_that_never_began_is_the_end_of_its_log(tmp_path: Path) -> None:
    """Safe to show, and short, however long the log's last line is."""
    job = Job("train.py", (), False, tmp_path)
    job.log(Trial("fp32")).parent.mkdir()
    job.log(Trial("fp32")).write_bytes(b"first\n\x1b[31mred\x1b]0;title\x07 " + b"x" * 10**6 + b"\n\n")
    long = outcome_of(job, Trial("fp32"), 1, None, "Ctrl-C")
    assert (long.status, long.reason) == ("failed", "x" * 300)
    job.log(Trial("fp32")).write_bytes(b"first\n\x1b[31mred\x1b]0;title\x07 sentence\n\n")
    assert outcome_of(job, Trial("fp32"), 1, None, "Ctrl-C").reason == "red sentence"
    job.log(Trial("fp32")).write_bytes(b"short")
    assert outcome_of(job, Trial("fp32"), 1, None, "Ctrl-C").reason == "short"


def test_a_program_that_leaves_with_an_exit_code_is_told_by_its_last_line(tmp_path: Path) -> None:
    """As argparse does, which writes its error and raises SystemExit."""
    job = Job("train.py", (), False, tmp_path)
    job.log(Trial("fp32")).parent.mkdir()
    start = '{"event":"start","schema":"halfstep/record/1","precision":"fp32"}\n'
    end = '{"event":"end","status":"failed","reason":"exit code 2","exit_code":2,"exception":null}\n'
    job.record(Trial("fp32")).write_text(start + end)
    assert outcome_of(job, Trial("fp32"), 2, None, "Ctrl-C").reason == "exit code 2"
    job.log(Trial("fp32")).write_text(
        "usage: train.py [--lr LR]\ntrain.py: error: unrecognized arguments: --rl\n"
        "halfstep: the program ended without an optimizer step; precision fp16 was in force\n"
    )
    said = outcome_of(job, Trial("fp32"), 2, None, "Ctrl-C").reason
    assert said == "exit code 2; it said last: train.py: error: unrecognized arguments: --rl"
    job.record(Trial("fp32")).write_text(
        start + end.replace("null", '"RuntimeError"').replace("exit code 2", "boom")
    )
    assert outcome_of(job, Trial("fp32"), 1, None, "Ctrl-C").reason == "boom"


def test_a_record_that_is_gone_is_no_failure_of_the_program(tmp_path: Path) -> None:
    job = Job("train.py", (), False, tmp_path, time_limit=5)
    found = outcome_of(job, Trial("fp32"), 0, None, "Ctrl-C")
    assert (found.status, found.reason) == (
        "damaged", "its record is gone: the program, or somebody else, has removed it"
    )  # fmt: skip
    assert outcome_of(job, Trial("fp32"), None, "timed_out", "").status == "timed_out"


def test_a_signal_without_a_name_is_its_number() -> None:
    assert judge(JOB, Record(Path("r")), [], -63, None, "")[1].startswith("killed by signal 63 after 0 steps")


@pytest.mark.parametrize(
    ("steps", "exit_code", "status", "reason"),
    [
        (0, -9, "failed", "killed by SIGKILL after 0 steps; the kernel does that when memory runs out"),
        (1, -11, "failed", "killed by SIGSEGV after 1 step"),
        (1, 0, "ok", ""),
        (0, 0, "failed", "ended without an optimizer step"),
        (2, 3, "failed", "ended at once with exit code 3 after 2 steps (os._exit or a crash)"),
        (2, None, "failed", "ended at once with exit code None after 2 steps (os._exit or a crash)"),
    ],
)
def test_a_record_without_a_last_line_is_judged_by_how_the_process_ended(
    steps: int, exit_code: int | None, status: str, reason: str
) -> None:
    record = Record(Path("r"), steps=[{"step": i, "loss": 1.0} for i in range(steps)])
    assert judge(JOB, record, [], exit_code, None, "") == (status, reason)


@pytest.mark.parametrize(
    ("status", "where"), [("diverged", "; began in net.a"), ("out_of_memory", ""), ("unsupported", "")]
)
def test_where_it_began_is_said_of_a_training_that_diverged(status: str, where: str) -> None:
    record = Record(Path("r"), end={"status": status, "reason": "boom"}, nonfinite={"words": "in net.a"})
    assert judge(JOB, record, [], 1, None, "") == (status, f"boom{where}")


def test_no_figure_is_taken_from_a_record_with_a_hole_whatever_its_status() -> None:
    steps = [{"step": 0, "loss": 1.0}]
    whole, holed = Record(Path("r"), steps=steps), Record(Path("r"), steps=steps, damage="step 2 is missing")
    assert Outcome(Trial("fp32"), "ok", "", 0, whole).trusted().record.steps == steps
    for record, ranks in ((holed, []), (whole, [holed])):
        found = Outcome(Trial("fp32"), "ok", "", 0, record, ranks).trusted()
        assert (found.status, found.record.steps, found.ranks) == ("damaged", [], [])
        assert found.reason == "its record cannot be used: step 2 is missing"
    ended = Outcome(Trial("fp32"), "interrupted", "by Ctrl-C", 0, holed).trusted()
    assert (ended.status, ended.reason, ended.record.steps) == ("interrupted", "by Ctrl-C", [])


def test_why_halfstep_ended_it_comes_before_what_its_record_says() -> None:
    job = Job("train.py", (), False, Path("out"), time_limit=2.5, memory_limit=2**20)
    record = Record(Path("r"), steps=[{"step": 0, "loss": NAN}], end={"status": "failed", "reason": "x"})
    said = {
        "timed_out": "ran longer than the time limit of 2.5 s; 1 step was made",
        "out_of_memory": "its resident memory passed the limit of 1,048,576 bytes",
        "interrupted": "interrupted by SIGHUP after 1 step",
    }
    for stopped, reason in said.items():
        assert judge(job, record, [], -9, stopped, "SIGHUP") == (stopped, reason)  # type: ignore[arg-type]


def test_a_rank_that_failed_is_the_reason_of_the_trial() -> None:
    whole = Record(Path("r"), steps=[{"step": 0, "loss": 1.0}], end={"status": "ok"})
    fine = Record(Path("r.rank1"), start={"rank": 1}, end={"status": "ok"})
    bad = Record(Path("r.rank2"), start={"rank": 2}, end={"status": "failed", "reason": "boom"})
    killed = Record(Path("r.rank3"), start={"rank": 3})
    assert judge(JOB, whole, [fine, bad], 1, None, "") == ("failed", "rank 2: boom")
    assert judge(JOB, whole, [fine, killed], 0, None, "") == ("ok", "")
    unended = Record(Path("r"), steps=whole.steps)
    assert judge(JOB, unended, [fine, killed], -9, None, "")[1].startswith(
        "rank 3: killed by SIGKILL after 0 steps"
    )
    assert judge(JOB, whole, [fine], 3, None, "") == ("failed", "exit code 3")
