"""Text that a program, a user or a damaged file may have written, made safe to show."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def clean(value: object, lines: bool = False) -> str:
    """The text without escape sequences, control, format and lone surrogate characters; a number as text.

    Empty for any other value, truth values included.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    kept = _ESCAPE.sub("", text).replace("\t", "    ").replace("\r\n", "\n")
    if not lines:
        kept = kept.replace("\n", " ").replace("\r", " ")
    return "".join(c for c in kept if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")).strip(
        "\n"
    )
