"""The table as Markdown: what a program wrote into it is shown as it is, and is no markup."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from halfstep.report.markdown import markdown

from .sample import hostile

PAYLOADS = [
    "a | b",
    "`code` **bold** _it_ ~~gone~~ $x^2$",
    "[x](javascript:alert(1)) ![i](http://evil.example/i.png) <http://evil.example>",
    "see https://evil.example and www.evil.example or a@evil.example",
    "<img src=x onerror=alert(1)> <!-- --> &lt;b&gt; &#65;",
    "\\| \\` \\\\ ends with \\",
    "# no heading - no list",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_program_wrote_is_text(payload: str) -> None:
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown(hostile(payload)))
    inline = [child for token in found for child in token.children or ()]
    assert {child.type for child in inline} <= {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "softbreak",
    }
    shown = ["".join(child.content for child in token.children or ()) for token in found]
    assert payload in shown
    kinds = "".join({"tr_open": "/", "th_open": ".", "td_open": "."}.get(token.type, "") for token in found)
    assert len(set(kinds.split("/")[1:])) == 1, "each row has as many cells as the head"


@pytest.mark.parametrize(
    "payload", ["https://evil.example", "www.evil.example", "a@evil.example", "\x1b[31mx"]
)
def test_nothing_becomes_a_link_by_itself(payload: str) -> None:
    """Renderers such as GitHub's make links of what looks like an address."""
    made = markdown(hostile(payload))
    assert payload not in made
    assert made.isprintable() or set(made) - {c for c in made if c.isprintable()} == {"\n"}
