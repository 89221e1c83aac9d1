"""Where in the user's program an exception was raised: the line, and the modules of the model that the line uses.

Imports no framework: a module is an object with ``named_modules``, as PyTorch's have.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from halfstep.program import cells

#: packages whose lines are not the user's
_LIBRARIES = ("torch", "halfstep", "keras", "tensorflow", "jax", "IPython")

#: prefixes that torch.compile and data parallelism put before the names of a model's parts
_WRAPPERS = ("_orig_mod", "module")


@dataclass(frozen=True)
class RaisedAt:
    """The innermost line that belongs to no framework."""

    place: str = ""  #: ``train.py:30``; empty where no line is the user's
    code: str = ""  #: the text of that line
    #: names, within the model that was called, of the modules whose results the line uses; where there are none, the
    #: module whose code the line is, unless that is the whole model
    modules: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: BaseException) -> RaisedAt:
        """From an exception's traceback; empty where that cannot be read."""
        try:
            return _raised_at(error)
        except Exception:
            return cls()


def _raised_at(error: BaseException) -> RaisedAt:
    frames = list(_frames(error))
    own = [(frame, line) for frame, line in frames if not of_a_library(frame.f_code.co_filename)]
    if not own:
        return RaisedAt()
    frame, line = own[-1]
    file = frame.f_code.co_filename
    modules = tuple(dict.fromkeys(_modules(frame, line, [f for f, _ in frames])))
    place = cells.cell_line(file, line) if cells.is_cell(file) else f"{os.path.basename(file)}:{line}"
    return RaisedAt(place, linecache.getline(file, line).strip(), modules)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def of_a_library(file: str) -> bool:
    """Whether code belongs to a framework, or comes from no file: it is then not the user's."""
    known = (sys.modules.get(name) for name in _LIBRARIES)
    homes = (os.path.dirname(os.path.abspath(m.__file__)) + os.sep for m in known if m and m.__file__)
    return (file.startswith("<") and not cells.is_cell(file)) or os.path.abspath(file).startswith(
        tuple(homes)
    )


def _is_module(thing: Any) -> bool:
    return callable(getattr(type(thing), "named_modules", None))


def _modules(frame: FrameType, line: int, frames: list[FrameType]) -> Iterator[str]:
    owners = [owner for f in frames if _is_module(owner := f.f_locals.get(_first_argument(f)))]
    owner = frame.f_locals.get(_first_argument(frame))
    if not owners or not _is_module(owner):
        return
    outermost: Any = owners[0]
    names = {id(part): _plain(name) for name, part in outermost.named_modules()}
    found = [names.get(id(part), "") for part in _parts_at(frame, line, owner)]
    yield from filter(None, found or [names.get(id(owner), "")])


def _first_argument(frame: FrameType) -> str:
    """``self``, by whatever name the program calls it."""
    code = frame.f_code
    return code.co_varnames[0] if code.co_argcount else ""


def _plain(name: str) -> str:
    parts = name.split(".")
    while parts and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def _parts_at(frame: FrameType, line: int, owner: Any) -> list[Any]:
    """The modules ``self.X`` of ``owner`` that the statement at ``line`` calls, or whose results it reads."""
    lines, first = inspect.getsourcelines(frame.f_code)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    at = line - first + 1
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
    here = next((node for node in statements if node.lineno <= at <= (node.end_lineno or node.lineno)), None)
    if here is None:
        return []
    me = _first_argument(frame)
    found = _called(here, me, owner)
    read = {node.id for node in ast.walk(here) if isinstance(node, ast.Name)}
    for node in statements:
        if isinstance(node, ast.Assign) and node.lineno < here.lineno:
            written = {
                name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
            found += _called(node, me, owner) if written & read else []
    return found


def _called(node: ast.AST, me: str, owner: Any) -> list[Any]:
    """The modules among ``self.a``, ``self.a.b`` ... that are called within ``node``."""
    functions = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [part for function in functions if (part := _attribute(function, me, owner)) is not None]


def _attribute(node: ast.AST, me: str, owner: Any) -> Any:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == me and names):
        return None
    part = owner
    for name in reversed(names):
        part = getattr(part, name, None)
    return part if _is_module(part) else None
