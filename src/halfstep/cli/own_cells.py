"""Which cells of a notebook are about halfstep, and so no part of the program that is compared."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from types import ModuleType

from halfstep.cli import calls
from halfstep.report.loading import Comparison, Diagnosis, load

_OWN_CELL = re.compile(r"\s*%%halfstep\b")
_OWN_LINE = re.compile(
    r"%(load_ext|unload_ext|reload_ext)\s+halfstep\s*$|(\w+\s*=\s*)?%halfstep\b"
    r"|halfstep\.(enable|disable)\(.*\)\s*(#.*)?$"
)

#: functions that start trials, or read the results of trials
_FUNCTIONS = {"compare": calls.compare, "diagnose": calls.diagnose, "load": load}


def own_lines_removed(code: str) -> str:
    """A cell without its lines about halfstep; a line stays empty, so that the others keep their numbers."""
    if _OWN_CELL.match(code):
        return ""
    return "\n".join("" if _OWN_LINE.match(line) else line for line in code.split("\n"))


def looks_at_results(python: str, names: Mapping[str, object]) -> bool:
    """Whether a cell compares or diagnoses by Python, or reads what a comparison or a diagnosis found.

    Args:
        python: its code, magics already translated.
        names: the kernel's variables as the cell begins; ``_`` and ``Out`` are among them.
    """
    try:
        tree = ast.parse(python)
    except (SyntaxError, ValueError):  # it will not run, so it is no part of the program either
        return False
    aliases = {name for name, value in names.items() if _is_package(value)} | set(_imported(tree, "halfstep"))
    return any(_is_own(node, names, aliases) for node in ast.walk(tree))


def _is_own(node: ast.AST, names: Mapping[str, object], aliases: set[str]) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "halfstep" and any(each.name in _FUNCTIONS for each in node.names)
    if isinstance(node, ast.Attribute):
        return node.attr in _FUNCTIONS and isinstance(node.value, ast.Name) and node.value.id in aliases
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Out":
        outputs, key = names.get("Out"), node.slice
        return isinstance(outputs, dict) and isinstance(key, ast.Constant) and _holds(outputs.get(key.value))
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and _holds(names.get(node.id))


def _holds(value: object) -> bool:
    return isinstance(value, Comparison | Diagnosis) or any(value is each for each in _FUNCTIONS.values())


def _is_package(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == "halfstep"


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The names under which a cell imports ``package``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.asname or each.name for each in node.names if each.name == package)
