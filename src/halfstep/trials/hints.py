"""What the exception that ended a trial does not say: whether the number format caused it, and what to change.

Frameworks raise most of these errors with general classes, so only the message identifies them. Only this file and
:mod:`halfstep.words.format_errors` search messages.
"""

from __future__ import annotations

from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.words.format_errors import FormatError, cure_words, format_error

#: for a program that has to be started as one of several processes
NO_RANK = (
    "no launcher told the program which of several processes it is: --launch has to name one that does, such as "
    '"torchrun --nproc-per-node 2" (`accelerate launch --cpu` starts one process unless it is given --mpirun_hostfile; '
    "--multi_gpu starts several, on a CPU too)"
)

#: a part of a framework's message (of torch.distributed, of ``Tensor.numpy``) -> what to do
_MESSAGES = {
    "environment variable RANK expected": NO_RANK,
    "unsupported ScalarType BFloat16": "NumPy has no bf16, so the program has to write .float().numpy(){where}",
}


def hint(record: Record) -> str:
    """What to add to an exception's message, as the end of a sentence; empty where there is nothing to add."""
    if record.end.get("exception") == "EOFError":
        return "; a comparison gives a program nothing to read on stdin"
    reason, place = record.end.get("reason", ""), record.end.get("raised_at", {}).get("place", "")
    if known := next((words for message, words in _MESSAGES.items() if message in reason), ""):
        return f"; {known.format(where=f' at {place}' if place else '')}"
    precision = record.start.get("precision") or "fp32"
    recipe = parse(precision)
    error = caused_by_format(record)
    if error is None:
        return ""
    can_keep = recipe.compute in ("bf16", "fp16") and not recipe.keep
    return f"; {cure_words(error, precision, place, modules_to_keep(record), can_keep)}"


def caused_by_format(record: Record) -> FormatError | None:
    """The error that ended a trial, if the number format caused it."""
    compute = parse(record.start.get("precision") or "fp32").compute
    code = record.end.get("raised_at", {}).get("code", "")
    return format_error(record.end.get("reason", ""), compute, code)


def modules_to_keep(record: Record) -> tuple[str, ...]:
    """The modules whose results the line used that raised the error."""
    return tuple(record.end.get("raised_at", {}).get("modules", ()))
