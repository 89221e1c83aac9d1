"""The options of ``halfstep diagnose`` and of ``halfstep.diagnose``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halfstep.options import MOST_STEPS, StrPath, option_help
from halfstep.trials.progress import CallOptions


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions(CallOptions):
    """What is to be diagnosed, as it was given: a path is a text or a ``Path``."""

    program: StrPath = field(kw_only=False)
    precision: str = field(
        default="fp16",
        metadata=option_help(
            "The precision to look into, with options; as-is and fp32 are allowed, and with --emulate fp8, mxfp8 and "
            "the others that `halfstep run` emulates.",
            metavar="P",
        ),
    )
    steps: int = field(
        default=20,
        metadata=option_help("How many optimizer steps to watch.", range(1, MOST_STEPS + 1), "N"),
    )
    json: StrPath | None = field(
        default=None,
        metadata=option_help("Also write the diagnosis as JSON to FILE; - for stdout.", metavar="FILE"),
    )
    out: StrPath | None = field(
        default=None,
        metadata=option_help(
            "Folder for records, logs and the page. Default: a new one in halfstep-out. In a comparison's folder the "
            "diagnosis becomes a section of its page.",
            metavar="DIR",
        ),
    )
    try_remedies: bool = field(
        default=False,
        metadata=option_help("Run the program again with the remedies that are found, and say which work."),
    )
    time_limit: float | None = field(
        default=None, metadata=option_help("End a trial that runs longer than T seconds.", "seconds", "T")
    )
    launch: str | Sequence[str] = field(
        default="", metadata=option_help('Launcher, e.g. "torchrun --nproc-per-node 2".', metavar="CMD")
    )
