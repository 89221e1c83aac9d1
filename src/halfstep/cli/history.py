"""What a kernel has run so far, as a program: the cells that ended well, each once, where it ran last."""

from __future__ import annotations

import re
from typing import Any

from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from halfstep.program.cells import Cell

#: cells and lines that are about halfstep, and no part of the program
_OWN_CELL = re.compile(r"\s*%%halfstep\b")
_OWN_LINE = re.compile(
    r"%(load_ext|unload_ext|reload_ext)\s+halfstep\s*$|(\w+\s*=\s*)?%halfstep\b"
    r"|halfstep\.(enable|disable)\(.*\)\s*(#.*)?$"
)


class History:
    """Looks in at a kernel's cells: IPython itself remembers their text, but not which of them is which.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._failed: set[int] = set()
        self._names: dict[int, str] = {}
        shell.events.register("post_run_cell", self._note)

    def forget(self) -> None:
        """Listen no longer."""
        self._shell.events.unregister("post_run_cell", self._note)

    def _note(self, result: ExecutionResult) -> None:
        """A cell has ended, well or not; also one that was interrupted."""
        number = result.execution_count
        if number is None:
            return
        if not result.success:
            self._failed.add(number)
        if result.info is not None and result.info.cell_id:
            self._names[number] = str(result.info.cell_id)

    @property
    def number(self) -> int:
        """Of the cell that is running."""
        return len(self._raw) - 1

    @property
    def _raw(self) -> list[str]:
        manager: Any = self._shell.history_manager
        return list(manager.input_hist_raw)

    def program(self) -> list[Cell]:
        """The cells that ran before the one that is running: each once, where it ran last, if it ended well then.

        A cell is told by the name that the notebook gives it, where it was run after the extension was loaded, else by
        its text.
        """
        failed = self._failed | set(
            getattr(self._shell.history_manager, "exceptions", {})
        )  # from IPython 9 on
        last: dict[str, Cell] = {}
        for number, text in enumerate(self._raw[:-1]):
            code = own_lines_removed(text)
            for key in filter(None, (self._names.get(number), text)):
                last.pop(key, None)
            if code.strip() and number not in failed:
                last[self._names.get(number, text)] = Cell(number, code)
        return sorted(last.values(), key=lambda cell: cell.number)


def own_lines_removed(code: str) -> str:
    """A cell without its lines about halfstep; a line stays empty, so that the others keep their numbers."""
    if _OWN_CELL.match(code):
        return ""
    return "\n".join("" if _OWN_LINE.match(line) else line for line in code.split("\n"))
