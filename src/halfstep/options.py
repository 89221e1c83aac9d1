"""The options of every run of a program: one value from the command line to the takeover, and to a child's command.

A new option is a field of :class:`RunOptions`, and the place that uses it: its ``metadata`` are the words and the type
of the command line's option, and the values that JSON may have. The options of a comparison and of a diagnosis are
fields of classes derived from it, which the command and the function of Python are both made from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, get_args

#: a path, as Python's own functions take it
StrPath = str | os.PathLike[str]

#: no program makes more steps
MOST_STEPS = 2**53

ProductsMode = Literal["auto", "native", "fp32"]


#: what an option of the command line holds: a text, one of its choices, a whole number in a range, or seconds
Kind = tuple[str, ...] | range | Literal["text", "texts", "seconds"]


def option_help(help: str, kind: Kind = "text", metavar: str | None = None) -> dict[str, str | Kind | None]:
    """The metadata of a field that is an option of the command line; a field whose default is False is a flag."""
    return {"help": help, "kind": kind, "metavar": metavar}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a program is run, whatever the precision.

    Attributes:
        steps: end the program after this many optimizer steps; None for as many as it makes.
        products: where 16-bit matrix products are computed on a CPU.
        emulate: whether a precision that has no units here may be rounded to inside fp32 tensors.
        as_on: ``cuda``: apply CUDA's autocast lists on a CPU; None: the CPU's own.
    """

    #: each command has its own words for it
    steps: int | None = None
    products: ProductsMode = field(
        default="auto",
        metadata=option_help(
            "Where 16-bit matrix products are computed on a CPU: in fp32 units where it has none of its own (auto), "
            "by PyTorch (native), or always in fp32 units (fp32).",
            get_args(ProductsMode),
        ),
    )
    emulate: bool = field(
        default=False,
        metadata=option_help(
            "Round to a precision that has no units here (tf32, fp8, mxfp8, mxfp6, mxfp4, nvfp4) inside fp32 "
            "tensors: exactly, but with no figure for speed or memory."
        ),
    )
    as_on: Literal["cuda"] | None = field(
        default=None,
        metadata=option_help(
            "Apply this device's autocast lists on a CPU, to see what fp16 or bf16 would do there; "
            "precisions without autocast are the same on both.",
            ("cuda",),
        ),
    )

    @property
    def of_run(self) -> RunOptions:
        """Those of every run, without what a command adds to them."""
        return RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})

    def as_arguments(self) -> list[str]:
        """The options of ``halfstep run`` that give these."""
        words: list[str] = []
        for name, value in asdict(self).items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value not in (None, False):
                words += [option, str(value)]
        return words

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> RunOptions:
        """The options among ``raw``; what is missing has its default.

        Raises:
            ValueError: a value that no option has, with the name.
        """
        known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        wrong = [name for name, value in known.items() if not _ALLOWED[name](value)]
        if wrong:
            raise ValueError(f"its {wrong[0]} is damaged")
        return cls(**known)


#: the options of a program where nothing else is asked for
DEFAULTS = RunOptions()


def run_arguments(
    precision: str,
    options: RunOptions,
    *,
    seed: int | None,
    repeat: int,
    record: str | None,
    watch: bool = False,
    graphs: bool = False,
) -> list[str]:
    """``run`` with its options: the arguments of a trial, and of a process that a framework starts again."""
    own = {"--precision": precision, "--seed": seed, "--repeat": repeat, "--record": record}
    given = [word for option, value in own.items() if value is not None for word in (option, str(value))]
    return [
        "run",
        *given,
        *(["--watch"] if watch else []),
        *(["--graphs"] if graphs else []),
        *options.as_arguments(),
    ]


def _allowed(option: Field[Any]) -> Callable[[Any], bool]:
    if option.default is False:
        return lambda value: type(value) is bool
    return lambda value: value in option.metadata["kind"] or value is option.default


#: what each option may be in JSON
_ALLOWED: dict[str, Callable[[Any], bool]] = {f.name: _allowed(f) for f in fields(RunOptions) if f.metadata}
_ALLOWED["steps"] = lambda value: value is None or (type(value) is int and 0 < value <= MOST_STEPS)
