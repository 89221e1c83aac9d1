"""The fields of a JSON object: names and types from halfstep's dataclass, descriptions from the page.

    ```{json-fields} halfstep.comparison.model:TrialRow
    precision: the precision's name
    ```

A field without a description, and a description without a field, are warnings, and so end a strict build.
"""

from __future__ import annotations

import ast
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


class JsonFields(MarkdownTable):
    """One row a field."""

    required_arguments = 1
    has_content = True

    def rows(self) -> Iterator[list[str]]:
        module, _, name = self.arguments[0].partition(":")
        cls: Any = getattr(import_module(module), name)
        told = dict(line.split(": ", 1) for line in self.content if line.strip())
        fields = {field.name: str(field.type) for field in written(cls)}
        for missing in fields.keys() - told.keys():
            _LOG.warning(
                "%s: the field %r is not described", self.arguments[0], missing, location=self.get_location()
            )
        for unknown in told.keys() - fields.keys():
            _LOG.warning("%s has no field %r", self.arguments[0], unknown, location=self.get_location())
        yield ["field", "type", "what it is"]
        for field, annotation in fields.items():
            yield [f"`{field}`", json_type(annotation), told.get(field, "")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("json-fields", JsonFields)
    return {"parallel_read_safe": True}
