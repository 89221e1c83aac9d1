"""The options of ``halfstep compare`` and of ``halfstep.compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halfstep.comparison.model.recommendation import PREFER, Prefer
from halfstep.comparison.request import MOST
from halfstep.options import MOST_STEPS, StrPath, option_help
from halfstep.trials.progress import CallOptions


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(CallOptions):
    """What to compare, as it was given: a list may also be a text with commas, and a path a text."""

    program: StrPath | None = field(default=None, kw_only=False)
    precisions: str | Sequence[str] | None = field(
        default=None,
        metadata=option_help(
            "Separated by commas, e.g. fp32,bf16,fp16:loss_scale=1024. Default: what this hardware can do, and as-is "
            "if the program has its own mixed precision.",
            metavar="LIST",
        ),
    )
    steps: int | None = field(
        default=None,
        metadata=option_help("End each trial after N optimizer steps.", range(1, MOST_STEPS + 1), "N"),
    )
    budget: float | str | None = field(
        default=None,
        metadata=option_help(
            "Spend at most this much time, e.g. 20m, 90s or 2h: decide which precision to run next with which seed, "
            "drop those that lose, and stop when every verdict is certain.",
            metavar="TIME",
        ),
    )
    repeats: int = field(
        default=1,
        metadata=option_help(
            "Run each precision R times, interleaved, to see the noise.", range(1, MOST + 1), "R"
        ),
    )
    seeds: int = field(
        default=1,
        metadata=option_help(
            "Run each precision with S seeds; every seed that the program sets is shifted by 0, 1, ...",
            range(1, MOST + 1),
            "S",
        ),
    )
    time_limit: float | None = field(
        default=None, metadata=option_help("End a trial that runs longer than T seconds.", "seconds", "T")
    )
    tolerance: float | str | Sequence[str] = field(
        default=(),
        metadata=option_help(
            "A difference that does not matter: 0.01 (of the loss), 1% (of every figure), accuracy=0.005. Default: "
            "the baseline's own deviation from seed to seed.",
            "texts",
            "D",
        ),
    )
    prefer: Prefer = field(
        default="speed",
        metadata=option_help(
            "What the advice should improve without a loss of quality; accuracy: only what was shown to be as good as "
            "the baseline.",
            PREFER,
        ),
    )
    require: str | Sequence[str] = field(
        default=(),
        metadata=option_help(
            "What has to be shown, e.g. 'bf16: no worse, speed >= 1.2, memory <= 0.9': exit code 1 where it does not "
            "hold, 3 where the data cannot tell. May be given again, also in pyproject.toml: [tool.halfstep], require.",
            "texts",
            "RULE",
        ),
    )
    fit_batch: str | None = field(
        default=None,
        metadata=option_help(
            "Then find the largest batch that fits each precision; ARG is the program's own option for it: "
            "--fit-batch images=--batch-size.",
            metavar="[NAME=]ARG",
        ),
    )
    memory_limit: int | str | None = field(
        default=None,
        metadata=option_help(
            "On a CPU, the memory that --fit-batch has to fit into, e.g. 8GiB: the largest resident memory of the "
            "program and its children.",
            metavar="SIZE",
        ),
    )
    out: StrPath | None = field(
        default=None,
        metadata=option_help(
            "Folder for records, logs and the page. Default: a new one in halfstep-out. What "
            "`halfstep diagnose --out DIR` finds later becomes a section of the page.",
            metavar="DIR",
        ),
    )
    json: StrPath | None = field(
        default=None,
        metadata=option_help("Also write the comparison as JSON to FILE; - for stdout.", metavar="FILE"),
    )
    markdown: StrPath | None = field(
        default=None,
        metadata=option_help(
            "Also write the table as Markdown to FILE, for the summary of a CI job.", metavar="FILE"
        ),
    )
    track: str | Sequence[str] = field(
        default=(),
        metadata=option_help(
            "Also write to a tracker: tensorboard, mlflow or wandb, a run per trial; it writes into DIR, else into the "
            "folder of --out. May be given again.",
            "texts",
            "NAME[=DIR]",
        ),
    )
    launch: str | Sequence[str] = field(
        default="",
        metadata=option_help('Launcher for each trial, e.g. "torchrun --nproc-per-node 2".', metavar="CMD"),
    )
    fresh: bool = field(
        default=False,
        metadata=option_help(
            "Run each trial in a copy of this folder, removed at its end, so that no trial continues from what another "
            "saved. Absolute paths in the program's command line that lie in this folder lead into the copy."
        ),
    )
    parallel: str | int = field(
        default="",
        metadata=option_help(
            "Run N blocks side by side: a block is one seed and repeat in all precisions, on its own GPU, or on "
            "1/N of a CPU's cores. devices: as many as there are GPUs.",
            metavar="N|devices",
        ),
    )
    on: str = field(
        default="",
        metadata=option_help(
            "Run the blocks on the machines of a Ray cluster: ray://HOST, or ray for one on this machine (or that of "
            "RAY_ADDRESS). The current folder is sent there.",
            metavar="ray[://HOST]",
        ),
    )
    resources: str = field(
        default="",
        metadata=option_help(
            "What a block gets on a machine of the cluster, e.g. gpu=1 or cpu=8. Default: one GPU, or all processors.",
            metavar="NAME=N",
        ),
    )
    resume: StrPath | None = field(
        default=None,
        metadata=option_help(
            "Go on with the comparison in DIR: run only what is missing, as it was asked for. --budget (more time), "
            "--seeds, --repeats, --time-limit, --tolerance and --prefer may be given anew.",
            metavar="DIR",
        ),
    )
