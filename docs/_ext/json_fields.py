"""The fields of a JSON object: names, types and descriptions from halfstep's dataclass.

    ```{json-fields} halfstep.comparison.model.trials:TrialRow
    precision: [in the page's own words](#a-precision)
    ```

A description is the comment behind a field, or above it, that begins with ``#:``; a line of the page is used instead.
A field without a description, and a line without a field, are warnings, and so end a strict build.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from format_pictures import MarkdownTable
from sphinx.application import Sphinx
from sphinx.util import logging

from halfstep.codec import written

_LOG = logging.getLogger(__name__)

_NAMES = {
    "float": "number", "int": "number", "str": "text", "bool": "true or false", "None": "null", "object": "anything",
    "EvidenceRef": "text", "Points": "array of [number, number]",
    "Kind": "text", "Cause": "text", "Prefer": "text", "Direction": "text",
}  # fmt: skip


def json_type(annotation: str) -> str:
    """``float | None`` as a reader of JSON says it: ``number or null``; every other class is an object."""
    return _words(ast.parse(annotation, mode="eval").body)


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left)} or {_words(node.right)}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        first, second = node.slice.elts
        if ast.unparse(node.value) == "Mapping":
            return f"object of {_words(second)}"
        repeated = isinstance(second, ast.Constant)  # tuple[x, ...]
        return f"array of {_words(first)}" if repeated else f"[{_words(first)}, {_words(second)}]"
    return _NAMES.get(ast.unparse(node), "object")


def descriptions(cls: type) -> dict[str, str]:
    """Field -> the comment that begins with ``#:``, behind it or above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        comment = re.fullmatch(r"    #: (.*)", line)
        field = re.match(r"    (\w+): .*?(?:  #: (.*))?$", line)
        if field:
            found[field[1]] = " ".join([*above, field[2] or ""]).strip()
        above = [*above, comment[1]] if comment else []
    return found


class JsonFields(MarkdownTable):
    """One row a field."""

    required_arguments = 1
    has_content = True

    def rows(self) -> Iterator[list[str]]:
        module, _, name = self.arguments[0].partition(":")
        cls: Any = getattr(import_module(module), name)
        own = dict(line.split(": ", 1) for line in self.content if line.strip())
        told = {name: said for name, said in (descriptions(cls) | own).items() if said}
        fields = {field.name: str(field.type) for field in written(cls)}
        for missing in fields.keys() - told.keys():
            _LOG.warning(
                "%s: the field %r is not described", self.arguments[0], missing, location=self.get_location()
            )
        for unknown in own.keys() - fields.keys():
            _LOG.warning("%s has no field %r", self.arguments[0], unknown, location=self.get_location())
        yield ["field", "type", "what it is"]
        for field, annotation in fields.items():
            yield [f"`{field}`", json_type(annotation), told.get(field, "")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("json-fields", JsonFields)
    return {"parallel_read_safe": True}
