"""Functions that stand around a framework's are not counted where a program counts the callers of a line.

``warnings.warn(stacklevel=2)`` and ``logging.info(stacklevel=2)`` name a caller, by its number of frames. Both modules
pass over frames of Python's own import machinery: those whose file has ``importlib`` and ``_bootstrap`` in its path
(``_is_internal_frame`` in each; in ``logging`` from Python 3.11 on). So packages of halfstep that wrap functions of a
framework find their modules by a path that leads through this folder. It costs nothing at run time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_HERE = os.path.dirname(os.path.abspath(__file__))


def through_here(path: Iterable[str]) -> list[str]:
    """``__path__`` of a package of halfstep, by way of this folder; as it is where that cannot be (in a zip)."""
    below = [os.path.join(_HERE, os.path.relpath(folder, _HERE)) for folder in path]
    return below if all(map(os.path.isdir, below)) else list(path)
