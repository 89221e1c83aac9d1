"""Runs a trial in a copy of the program's folder, so that it finds nothing that another trial wrote."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfstep.errors import UsageError
from halfstep.files import link_folder

#: bytes that a folder may hold at most to be copied for each trial
LARGEST = 2**30


@contextmanager
def fresh_folder(wanted: bool, output: Path) -> Iterator[Path | None]:
    """A copy of the current folder, beside it, so that relative paths lead to the same places; removed at the end.

    Virtual environments and ``.git`` are linked, not copied; files that are links stay links.

    Args:
        wanted: whether to make one; None is yielded otherwise.
        output: the folder of the comparison, which is left out.

    Raises:
        OSError: it cannot be made.
    """
    if not wanted:
        yield None
        return
    here = Path.cwd()
    copy = Path(tempfile.mkdtemp(prefix=f".{here.name}-fresh-", dir=here.parent))
    try:
        _copy(here, copy, output)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def check_size(output: Path) -> None:
    """Raise UsageError where the current folder is too large to be copied for each trial, or has no room beside it."""
    here = Path.cwd()
    size = 0
    for folder, folders, files in os.walk(here):
        paths = {name: Path(folder, name) for name in folders}
        folders[:] = [n for n, path in paths.items() if not (_is_linked(path) or _is_output(path, output))]
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    if size > LARGEST:
        raise UsageError(
            f"--fresh copies the folder {str(here)!r} for each trial, and it holds {size / 2**30:.1f} GiB, more than "
            f"{LARGEST // 2**30} GiB; let the program write into a folder that HALFSTEP_TRIAL names instead."
        )
    if not os.access(here.parent, os.W_OK):
        raise UsageError(
            f"--fresh copies the folder {str(here)!r} beside itself, and {str(here.parent)!r} cannot be written; move "
            "the program, or let it write into a folder that HALFSTEP_TRIAL names."
        )


def _is_linked(path: Path) -> bool:
    return path.name == ".git" or (path / "pyvenv.cfg").exists()


def _is_output(path: Path, output: Path) -> bool:
    return path.name == "halfstep-out" or path.absolute() == output.absolute()


def _copy(here: Path, copy: Path, output: Path) -> None:
    linked: list[Path] = []

    def left_out(folder: str, names: list[str]) -> set[str]:
        paths = [path for name in names if (path := Path(folder, name)).is_dir()]
        links = [path for path in paths if _is_linked(path)]
        linked.extend(links)
        return {path.name for path in paths if path in links or _is_output(path, output)}

    shutil.copytree(here, copy, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    for path in linked:
        link_folder(copy / path.relative_to(here), path)
