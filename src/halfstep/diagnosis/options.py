"""The options of ``halfstep diagnose`` and of ``halfstep.diagnose``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halfstep.options import MOST_STEPS, StrPath, told
from halfstep.trials.progress import CallOptions


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions(CallOptions):
    """What is to be diagnosed, as it was given: a path is a text or a ``Path``."""

    program: StrPath = field(kw_only=False)
    precision: str = field(
        default="fp16",
        metadata=told(
            "The precision to look into, with options; as-is and fp32 are allowed, and with --emulate fp8, mxfp8 and "
            "the others that `halfstep run` emulates.",
            metavar="P",
        ),
    )
    steps: int = field(
        default=20,
        metadata=told("How many optimizer steps to watch.", range(1, MOST_STEPS + 1), "N"),
    )
    json: StrPath | None = field(
        default=None,
        metadata=told("Also write the diagnosis as JSON to FILE; - for stdout.", metavar="FILE"),
    )
    out: StrPath | None = field(
        default=None,
        metadata=told(
            "Folder for records, logs and the page. Default: a new one in halfstep-out. In a comparison's folder the "
            "diagnosis becomes a section of its page.",
            metavar="DIR",
        ),
    )
    try_remedies: bool = field(
        default=False,
        metadata=told("Run the program again with the remedies that are found, and say which work."),
    )
    time_limit: float | None = field(
        default=None, metadata=told("End a trial that runs longer than T seconds.", "seconds", "T")
    )
    launch: str | Sequence[str] = field(
        default="", metadata=told('Launcher, e.g. "torchrun --nproc-per-node 2".', metavar="CMD")
    )
