"""What all pages share: templates that escape, data that cannot end a script, and the content security policy."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from halfstep.errors import Unsupported
from halfstep.files import json_text
from halfstep.processes import join_words
from halfstep.report import bars, units
from halfstep.report.reading import no_interval, nonfinite_words, why_absent
from halfstep.report.terminal import why
from halfstep.report.traces import plain
from halfstep.words.plural import count

EMPTY_STYLE = ""  #: plotly adds an empty style element and fills it by the CSSOM
#: characters that are escaped in a script element
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def embedded(value: object) -> Markup:
    """JSON for a script element: no character in it can end the element; nan and inf become null."""
    written = json_text(value, separators=(",", ":"))
    for character, safe in _UNSAFE.items():
        written = written.replace(character, safe)
    return Markup(written)


def policy(scripts: list[str], styles: list[str]) -> str:
    """The content security policy: only these scripts and styles may run, and pictures that the page itself makes."""
    allowed = [" ".join(f"'sha256-{_digest(text)}'" for text in texts) for texts in (scripts, styles)]
    return (
        f"default-src 'none'; script-src {allowed[0]}; style-src {allowed[1]}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def templates() -> Environment:
    """The environment of the templates: every text is escaped, and an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("halfstep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (embedded, count, plain, units.quantity, units.status, units.percent)
    functions = (bars.legend, units.span, why, no_interval, why_absent, nonfinite_words)
    made.filters |= {function.__name__: function for function in filters}
    made.globals |= {function.__name__: function for function in functions} | {"join": join_words}
    return made


def asset(name: str) -> str:
    """A script or style sheet of the pages, as its text."""
    file = resources.files("halfstep.report") / "templates" / name
    return file.read_text("utf-8").replace("\r\n", "\n")


def plotly_script() -> str:
    """The script of plotly, 4.6 MiB, which is slow to import.

    Raises:
        Unsupported: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise Unsupported(
            "The page is left out: plotly is not installed; pip install plotly, then `halfstep report` draws it."
        ) from None
    script: str = get_plotlyjs()
    return script


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
