"""Operands of different formats: in regions, and outside of them where the program holds 16-bit numbers."""

from __future__ import annotations

from collections.abc import Callable

from halfstep.pytorch.autocast import beyond_range, exported, mixed_operands
from halfstep.pytorch.autocast.no_regions import NoRegions
from halfstep.pytorch.autocast.program_region import ProgramRegion


class Operands:
    """Kernels that cast operands, until :meth:`remove`; none where the recipe has no regions."""

    def __init__(self, regions: NoRegions) -> None:
        self._regions = regions if isinstance(regions, ProgramRegion) else None
        self._formats_meet = False
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """In regions operands are promoted, and numbers beyond the format's range are held.

        Exported models assert no format.
        """
        if self._regions is not None:
            self._undo.append(mixed_operands.promote(self._regions.devices).remove)
            self._undo.append(beyond_range.hold(self._regions.devices).remove)
            self._undo.append(exported.accept_formats().remove)

    def let_meet(self) -> None:
        """16-bit numbers may meet fp32 ones outside of regions. By PyTorch's own kernels: ours take time per call."""
        if self._regions is not None and not self._regions.promotes:
            self._regions.promote()

    def let_formats_meet(self) -> None:
        """Numbers of the two 16-bit formats may meet. Again does nothing."""
        if self._regions is not None and not self._formats_meet:
            self._formats_meet = True
            meeting = mixed_operands.let_formats_meet(self._regions.devices, self._regions.dtype)
            self._undo.append(meeting.remove)

    def remove(self) -> None:
        """Take the kernels away."""
        for undo in self._undo:
            undo()
