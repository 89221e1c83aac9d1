"""What the exception that ended a trial leaves unsaid: whether its format caused it, and what to change.

Frameworks have no class for most of these; what tells them apart is the framework's own sentence, which is looked for
here and in :mod:`halfstep.words.format_errors` alone.
"""

from __future__ import annotations

from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.words.format_errors import FormatError, cure_words, format_error

#: of a program that wants to be one of several processes
NO_RANK = (
    "no launcher told the program which of several processes it is: --launch has to name one that does, such as "
    '"torchrun --nproc-per-node 2" (`accelerate launch --cpu` starts one process unless it is given --mpirun_hostfile; '
    "--multi_gpu starts several, on a CPU too)"
)

#: what to do, by a part of a framework's message: torch.distributed's, and that of ``Tensor.numpy``
_MESSAGES = {
    "environment variable RANK expected": NO_RANK,
    "unsupported ScalarType BFloat16": "NumPy has no bf16, so the program has to write .float().numpy(){where}",
}


def hint(record: Record) -> str:
    """What the words of an exception leave unsaid, as the end of a sentence."""
    if record.end.get("exception") == "EOFError":
        return "; a comparison gives a program nothing to read on stdin"
    reason, place = record.end.get("reason", ""), record.end.get("raised_at", {}).get("place", "")
    if told := next((words for message, words in _MESSAGES.items() if message in reason), ""):
        return f"; {told.format(where=f' at {place}' if place else '')}"
    precision = record.start.get("precision") or "fp32"
    recipe = parse(precision)
    error = caused_by_format(record)
    if error is None:
        return ""
    can_keep = recipe.compute in ("bf16", "fp16") and not recipe.keep
    return f"; {cure_words(error, precision, place, modules_to_keep(record), can_keep)}"


def caused_by_format(record: Record) -> FormatError | None:
    """The error that ended a trial, where its format caused it."""
    compute = parse(record.start.get("precision") or "fp32").compute
    code = record.end.get("raised_at", {}).get("code", "")
    return format_error(record.end.get("reason", ""), compute, code)


def modules_to_keep(record: Record) -> tuple[str, ...]:
    """The modules whose results the line worked with that ended a trial."""
    return tuple(record.end.get("raised_at", {}).get("modules", ()))
