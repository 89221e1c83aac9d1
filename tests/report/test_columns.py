"""A column of the table stands in the terminal, on the page, in a notebook and in Markdown."""

from __future__ import annotations

import io

from rich.console import Console

from halfstep.report import markdown, notebook, page, terminal
from halfstep.report.columns import COLUMNS, FINAL_LOSS

from .sample import comparison


def test_each_column_is_drawn_everywhere() -> None:
    compared = comparison(steps=8)
    shown = Console(width=200, file=io.StringIO(), record=True)
    shown.print(terminal.table(compared))
    text, cell = shown.export_text(), notebook.render(compared)
    html, table = page.render(compared), markdown.markdown(compared)
    for column in (*COLUMNS, FINAL_LOSS):
        assert column.name in text
        assert f">{column.name}</th>" in cell
        assert f'<th scope="col">{column.name.capitalize()}</th>' in html
        assert f'data-label="{column.name.capitalize()}"' in html
        assert (f"| {column.name} |" in table) is (column.name != "peak memory")
