"""``halfstep info``: what this machine can do, and what it cannot measure."""

from __future__ import annotations

import platform
from typing import Any

import click

from halfstep.files import json_text
from halfstep.machine.frameworks import Framework
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
        print(json_text(found, indent=1))
        return
    _print(found)


def _collect() -> dict[str, Any]:
    from halfstep.errors import UsageError
    from halfstep.machine.description import describe_machine
    from halfstep.machine.frameworks import FRAMEWORKS
    from halfstep.meters import Absent, available

    try:
        machine: dict[str, Any] = describe_machine()
    except UsageError as error:
        machine = {"absent": str(error)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "frameworks": {name: framework.version for name, framework in FRAMEWORKS.items()},
        "taken_over": {name: _taken_over(framework) for name, framework in FRAMEWORKS.items()},
        "machine": machine,
        "meters": {
            name: {"absent": meter.reason}
            if isinstance(meter, Absent)
            else {"unit": meter.unit, "how": meter.how}
            for name, meter in available()
        },
    }


def _taken_over(framework: Framework) -> str:
    """In words, what halfstep does in the installed version, or why it does nothing."""
    version = framework.version
    if version is None:
        return "not installed"
    if framework.too_old(version):
        return f"too old: {framework.oldest_version} or later is taken over"
    return framework.taken_over


def _print(found: dict[str, Any]) -> None:
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
        section("Platform", [(found["platform"], "untested: halfstep has not run there")])
    section("Frameworks", _frameworks(found))
    machine = found["machine"]
    if "absent" in machine:
        section("Devices", [("none", machine["absent"])])
    else:
        for device in machine["devices"]:
            name = f"{device['device']}: {device['name']}"
            capability = f", compute capability {device['capability']}" if device["capability"] else ""
            section(f"Precisions on {name}{capability}", _precisions(device["precisions"]))
            if device["device"] == "cpu":
                section("Emulated, with --emulate, on cpu", [(", ".join(_emulated()), "")])
    section("Meters", [(name, _meter(meter)) for name, meter in found["meters"].items()])


def _frameworks(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, found["taken_over"][name] if version is None else f"{version}, {found['taken_over'][name]}")
        for name, version in found["frameworks"].items()
    ]


def _precisions(precisions: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for name, row in precisions.items():
        slower = ", ".join(kind.replace("_", " ") for kind in row.get("slower", []))
        extra = f"; {slower} in fp32 units" if slower else ""
        rows.append((name, f"{_KINDS[row['kind']]}: {row['reason']}{extra}"))
        if name == "bf16" and row["kind"] != "impossible":
            rows.append(("bf16-lean", "as bf16, in PyTorch: weights in bf16 and a remainder, together fp32"))
    return rows


def _emulated() -> list[str]:
    """What --emulate adds on a CPU, and on no other device."""
    from halfstep.precisions.recipes import PRECISIONS, parse

    return [name for name in PRECISIONS if name == "tf32" or parse(name).only_emulated]


def _meter(meter: dict[str, str]) -> str:
    return f"absent: {meter['absent']}" if "absent" in meter else f"{meter['unit']}, {meter['how']}"
