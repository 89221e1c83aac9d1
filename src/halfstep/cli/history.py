"""The program that a kernel has run so far: the cells that ended well, each once, in the order of their last runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

from halfstep.cli.own_cells import looks_at_results, own_lines_removed
from halfstep.program.cells import Cell


class History:
    """Follows the cells of a kernel: IPython remembers their texts, but not which cell of the notebook each one is."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._failed: set[int] = set()
        self._names: dict[int, str] = {}
        self._looking: ExecutionInfo | None = None
        self._looked: set[int] = set()
        shell.events.register("pre_run_cell", self._begin)
        shell.events.register("post_run_cell", self._note)

    def forget(self) -> None:
        """Stop listening."""
        self._shell.events.unregister("pre_run_cell", self._begin)
        self._shell.events.unregister("post_run_cell", self._note)

    def _begin(self, info: ExecutionInfo) -> None:
        """A cell begins: later its names may have other values."""
        if self._looks(info.raw_cell or "", self._shell.user_ns):
            self._looking = info

    def _looks(self, code: str, names: Mapping[str, object]) -> bool:
        return looks_at_results(self._shell.transform_cell(own_lines_removed(code)), names)

    def _note(self, result: ExecutionResult) -> None:
        """A cell has ended, well or not; also one that was interrupted."""
        number = result.execution_count
        if number is None:
            return
        if self._looking is not None and result.info is self._looking:
            self._looked.add(number)
        if not result.success:
            self._failed.add(number)
        if result.info is not None and result.info.cell_id:
            self._names[number] = str(result.info.cell_id)

    @property
    def number(self) -> int:
        """The number of the cell that is running."""
        return len(self._raw) - 1

    @property
    def _raw(self) -> list[str]:
        manager: Any = self._shell.history_manager
        return list(manager.input_hist_raw)

    def looked(self) -> list[int]:
        """The numbers of the cells that only compared, diagnosed, or read the results."""
        before = enumerate(self._raw[:-1])
        return [number for number, text in before if number in self._looked or self._looks(text, {})]

    def program(self, left_out: Iterable[int]) -> list[Cell]:
        """The cells that ran before the running one, each once: its last run, if that ended well.

        A cell is identified by the id that the notebook gives it; one that ran before the extension was loaded, by its
        text.
        """
        # IPython 9 and later keep the exceptions themselves.
        failed = self._failed | {*getattr(self._shell.history_manager, "exceptions", {}), *left_out}
        last: dict[str, Cell] = {}
        for number, text in enumerate(self._raw[:-1]):
            code = own_lines_removed(text)
            for key in filter(None, (self._names.get(number), text)):
                last.pop(key, None)
            if code.strip() and number not in failed:
                last[self._names.get(number, text)] = Cell(number, code)
        return sorted(last.values(), key=lambda cell: cell.number)
