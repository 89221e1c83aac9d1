"""Lines of a given width: columns that fit, and text that flows in whole pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

_GUTTER = 2
#: how many characters of a reason a terminal shows; the page, JSON and the trial's output have the rest
_LONGEST = 400
#: what an ASCII terminal shows instead
_ASCII = str.maketrans(
    {"×": "x", "±": "+-", "–": "-", "—": "-", "−": "-", "µ": "u", "→": "->", "·": "|", "…": "..."}
)


@dataclass(frozen=True)
class Cell:
    """A labelled part of a row. With `words` it is prose, which may wrap; a figure never does.

    In a column its `stack` is shown, or its text without a stack; elsewhere its text, or nothing if it is `of_column`.
    """

    label: str
    text: str
    style: str = ""
    words: bool = False
    stack: tuple[str, ...] = ()
    of_column: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """Its lines in a column."""
        return self.stack or (self.text,)


@dataclass(frozen=True)
class Sheet:
    """The output: its width in columns, and whether it can show only ASCII."""

    width: int
    ascii_only: bool = False

    def spell(self, text: str) -> str:
        """The text in characters that the sheet has."""
        return text.translate(_ASCII).encode("ascii", "replace").decode() if self.ascii_only else text

    def spelled(self, cell: Cell) -> Cell:
        """The cell in characters that the sheet has."""
        stack = tuple(map(self.spell, cell.stack))
        return replace(cell, label=self.spell(cell.label), text=self.spell(cell.text), stack=stack)

    def fitting(self, widths: Sequence[int]) -> int:
        """How many columns of these widths fit side by side; at least one."""
        used = -_GUTTER
        for n, column in enumerate(widths):
            used += column + _GUTTER
            if used > self.width:
                return max(n, 1)
        return len(widths)

    def row(self, cells: Sequence[Cell], widths: Sequence[int]) -> Iterator[Text]:
        """The cells in columns; a first cell wider than the sheet is folded."""
        line = Text(no_wrap=True)
        for cell, width in zip(cells, widths, strict=True):
            line.append(cell.text, cell.style)
            line.append(" " * (width - cell_len(cell.text) + _GUTTER))
        line.rstrip()
        yield from folded(line, self.width)

    def flow(self, pieces: Iterable[Text], indent: int = 0, first: int = 0) -> Iterator[Text]:
        """Lines of whole pieces, the first line indented by `first`; a piece wider than a line is broken."""
        line = Text(" " * first, no_wrap=True)
        room = max(self.width - max(indent, first), 2)
        for goes_on, piece in (part for whole in pieces for part in enumerate(folded(whole, room))):
            blank = not line.plain.strip()
            if not blank and (goes_on or cell_len(line.plain) + 1 + cell_len(piece.plain) > self.width):
                yield line
                line, blank = Text(" " * indent, no_wrap=True), True
            line.append_text(piece if blank else Text(" ") + piece)
        if line.plain.strip():
            yield line

    def whole(self, name: str, text: str, style: str) -> Text:
        """A line to be copied: its name and a path or a command, never broken, however long it is."""
        line = Text.assemble((name, "dim"), " ", (self.spell(text), style), no_wrap=True)
        line.overflow = "ignore"
        return line

    def words(self, text: str, style: str = "") -> list[Text]:
        """Prose as pieces, one per word."""
        return [Text(word, style) for word in self.spell(text).split()]

    def pieces(self, cells: Sequence[Cell]) -> Iterator[Text]:
        """Cells as pieces of one flowing line: a label stays with its figure, and a dot stands between cells."""
        for n, cell in enumerate(map(self.spelled, cells), start=1):
            *rest, last = (cell.text.split() or [""]) if cell.words else [cell.text]
            dot = self.spell(" ·") if n < len(cells) else ""
            label = f"{cell.label} " if cell.label else ""
            for word in rest:
                yield Text.assemble((label, "dim"), (word, cell.style))
                label = ""
            yield Text.assemble((label, "dim"), (last, cell.style), (dot, "dim"))


def brief(text: str) -> str:
    """A reason cut to the length that a terminal shows: an exception's message may fill many screens."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1].rstrip()}…"


def folded(piece: Text, width: int) -> list[Text]:
    """The piece cut into parts of at most `width` columns: one part where it fits."""
    cuts, used = [], 0
    for place, character in enumerate(piece.plain):
        columns = cell_len(character)
        if used and used + columns > width:
            cuts.append(place)
            used = 0
        used += columns
    return list(piece.divide(cuts)) if cuts else [piece]
