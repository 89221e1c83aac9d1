"""``halfstep info``: what this machine can do, and what it cannot measure."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

import click

from halfstep import codec
from halfstep.errors import UsageError
from halfstep.files import json_text
from halfstep.machine.description import describe_machine
from halfstep.machine.frameworks import FRAMEWORKS, Framework
from halfstep.machine.support import Device, Machine
from halfstep.meters import Absent, Kind, available
from halfstep.processes import TESTED

_KINDS = {
    "native": "native",
    "fp32_units": "products in fp32 units",
    "emulated": "emulated",
    "impossible": "impossible here",
}


@click.command(short_help="Say what this machine can do, and cannot measure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Say which frameworks, devices and precisions this machine has, and which meters."""
    found = _collect()
    if as_json:
        print(json_text(found.as_json(), indent=1))
        return
    _print(found)


@dataclass(frozen=True)
class _Found:
    """What this machine has: versions by framework (None: not installed); what is not known is Absent."""

    python: str
    platform: str
    frameworks: Mapping[str, str | None]
    taken_over: Mapping[str, str]
    machine: Machine | Absent
    meters: Mapping[str, Kind | Absent]

    def as_json(self) -> object:
        """As JSON has it; what is absent is ``{"absent": reason}``."""
        meters = {name: _or_reason(meter) for name, meter in self.meters.items()}
        return {**codec.write(self), "machine": _or_reason(self.machine), "meters": meters}


def _or_reason(value: object) -> object:
    return {"absent": value.reason} if isinstance(value, Absent) else codec.write(value)


def _collect() -> _Found:
    machine: Machine | Absent
    try:
        machine = describe_machine()
    except UsageError as error:
        machine = Absent(str(error))
    return _Found(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        frameworks={name: framework.version for name, framework in FRAMEWORKS.items()},
        taken_over={name: _taken_over(framework) for name, framework in FRAMEWORKS.items()},
        machine=machine,
        meters=dict(available()),
    )


def _taken_over(framework: Framework) -> str:
    """In words, what halfstep does in the installed version, or why it does nothing."""
    version = framework.version
    if version is None:
        return "not installed"
    if framework.too_old(version):
        return f"too old: {framework.oldest_version} or later is taken over"
    return framework.taken_over


def _print(found: _Found) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def section(title: str, rows: list[tuple[str, str]]) -> None:
        console.print(Text(title, "bold"))
        grid = Table.grid(padding=(0, 2))
        for name, words in rows:
            grid.add_row("", Text(name), Text(words))
        console.print(grid)
        console.print()

    if not TESTED:
        section("Platform", [(found.platform, "untested: halfstep has not run there")])
    section("Frameworks", _frameworks(found))
    if isinstance(found.machine, Absent):
        section("Devices", [("none", found.machine.reason)])
    else:
        for device in found.machine.devices:
            capability = f", compute capability {device.capability}" if device.capability else ""
            section(f"Precisions on {device.device}: {device.name}{capability}", _precisions(device))
            if device.device == "cpu":
                section("Emulated, with --emulate, on cpu", [(", ".join(_emulated()), "")])
    section("Meters", [(name, _meter(meter)) for name, meter in found.meters.items()])


def _frameworks(found: _Found) -> list[tuple[str, str]]:
    return [
        (name, found.taken_over[name] if version is None else f"{version}, {found.taken_over[name]}")
        for name, version in found.frameworks.items()
    ]


def _precisions(device: Device) -> list[tuple[str, str]]:
    rows = []
    for name, row in device.precisions.items():
        slower = ", ".join(kind.replace("_", " ") for kind in row.slower)
        extra = f"; {slower} in fp32 units" if slower else ""
        rows.append((name, f"{_KINDS[row.kind]}: {row.reason}{extra}"))
        if name == "bf16" and row.kind != "impossible":
            rows.append(("bf16-lean", "as bf16, in PyTorch: weights in bf16 and a remainder, together fp32"))
            rows.append(("bf16-sr", "as bf16, in PyTorch: weights in bf16, rounded stochastically"))
    return rows


def _emulated() -> list[str]:
    """What --emulate adds on a CPU, and on no other device."""
    from halfstep.precisions.recipes import PRECISIONS, parse

    return [name for name in PRECISIONS if name == "tf32" or parse(name).only_emulated]


def _meter(meter: Kind | Absent) -> str:
    return f"absent: {meter.reason}" if isinstance(meter, Absent) else f"{meter.unit}, {meter.how}"
