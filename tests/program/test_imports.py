"""The watch for an import: called once, after it, and invisible before and after."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.resources
import importlib.util
import linecache
import sys
import threading
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from halfstep.errors import Unsupported
from halfstep.program import on_import

from .launch import launch


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; whatever was imported from it is forgotten, and nothing stays watched."""
    package = tmp_path / "fw"
    package.mkdir()
    (package / "__init__.py").write_text("steps = ['begun']\nfrom fw import part\nsteps.append('done')\n")
    (package / "part.py").write_text("import sys\nstate = sys.modules['fw'].steps.copy()\n")
    (package / "data.txt").write_text("data")
    (tmp_path / "user.py").write_text("import fw\nseen = list(fw.steps)\n")
    (tmp_path / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    left = [finder for finder in sys.meta_path if finder not in finders]
    for finder in left:
        finder._callbacks.clear()
        sys.meta_path.remove(finder)


def test_called_once_with_the_finished_module() -> None:
    calls: list[tuple[ModuleType, list[str]]] = []
    on_import("fw", lambda module: calls.append((module, list(module.steps))))
    import fw
    import fw.part

    importlib.reload(fw)
    assert calls == [(fw, ["begun", "done"])]
    assert fw.part.state == ["begun"]


def test_whoever_imports_it() -> None:
    calls: list[ModuleType] = []
    on_import("fw", calls.append)
    import other  # noqa: F401

    assert calls == []
    import user

    assert calls == [user.fw]


def test_everything_about_the_module_is_what_it_is_without_the_watch() -> None:
    def facts(module: ModuleType) -> list[object]:
        loader, spec = module.__loader__, module.__spec__
        assert spec is not None
        assert isinstance(loader, importlib.machinery.SourceFileLoader)
        resources = loader.get_resource_reader("fw")
        assert (importlib.resources.files("fw") / "data.txt").read_text() == "data"
        return [
            spec.loader is loader,
            type(loader),
            sorted(vars(loader)),
            loader.get_data(module.__file__ or ""),
            loader.get_source("fw"),
            loader.is_package("fw"),
            list(resources.contents()),
            {key: value for key, value in sorted(vars(spec).items()) if key != "loader"},
            sorted(vars(module)),
            module.__path__,
        ]

    plain = facts(importlib.import_module("fw"))
    for name in ("fw", "fw.part"):
        del sys.modules[name]
    on_import("fw", lambda module: None)
    assert facts(importlib.import_module("fw")) == plain


def test_looking_is_not_importing() -> None:
    calls: list[ModuleType] = []
    on_import("fw", calls.append)
    spec = importlib.util.find_spec("fw")
    assert spec is not None
    assert type(spec.loader) is importlib.machinery.SourceFileLoader
    assert (calls, "fw" in sys.modules) == ([], False)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fw"] = module
    spec.loader.exec_module(module)
    assert calls == [module]


def test_a_lazy_import_counts_when_it_is_executed() -> None:
    calls: list[str] = []
    on_import("fw", lambda module: calls.append(module.__name__))
    spec = importlib.util.find_spec("fw")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fw"] = module
    spec.loader.exec_module(module)
    assert calls == []
    assert module.steps == ["begun", "done"]
    assert calls == ["fw"]


def test_an_import_that_fails_is_left_alone_and_a_later_one_counts(shelf: Path) -> None:
    (shelf / "flaky.py").write_text("import sys\nif not hasattr(sys, '_flaky'): raise OSError('not yet')\n")
    calls: list[ModuleType] = []
    on_import("flaky", calls.append)
    with pytest.raises(OSError, match="not yet"):
        importlib.import_module("flaky")
    assert (calls, "flaky" in sys.modules) == ([], False)
    sys._flaky = True  # type: ignore[attr-defined]
    try:
        module = importlib.import_module("flaky")
    finally:
        del sys._flaky  # type: ignore[attr-defined]
    assert calls == [module]


def test_a_module_that_is_not_there_stays_not_there() -> None:
    on_import("not_there", print)
    with pytest.raises(ModuleNotFoundError, match="^No module named 'not_there'$"):
        importlib.import_module("not_there")
    assert importlib.util.find_spec("not_there") is None


@pytest.mark.parametrize("error", ["OSError('no')", "ImportError('no')"])
def test_the_traceback_of_a_failed_import_is_the_same(shelf: Path, error: str) -> None:
    (shelf / "fails.py").write_text(f"def f():\n    raise {error}\nf()\n")

    def shown() -> str:
        linecache.clearcache()
        try:
            import fails  # noqa: F401
        except Exception:
            return traceback.format_exc()
        raise AssertionError("it was imported")

    plain = shown()
    on_import("fails", print)
    assert shown() == plain
    assert "importlib" not in plain


def test_a_warning_of_the_module_points_at_who_imports_it(shelf: Path) -> None:
    (shelf / "warns.py").write_text("import warnings\nwarnings.warn('old', stacklevel=2)\n")
    on_import("warns", lambda module: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import warns  # noqa: F401
    assert [Path(warning.filename).name for warning in caught] == ["test_imports.py"]


def test_already_imported_is_called_at_once() -> None:
    import fw

    calls: list[ModuleType] = []
    on_import("fw", calls.append)
    assert calls == [fw]


def test_half_imported_is_refused(shelf: Path) -> None:
    (shelf / "asks.py").write_text("from halfstep.program import on_import\non_import('asks', print)\n")
    with pytest.raises(
        RuntimeError, match="^asks is half imported: call on_import before its import, or after it.$"
    ):
        importlib.import_module("asks")


def test_the_finder_goes_when_everything_was_seen() -> None:
    before = list(sys.meta_path)
    names: list[str] = []
    on_import("fw", lambda module: names.append("first"))
    on_import("fw", lambda module: names.append("second"))
    on_import("other", lambda module: names.append("other"))
    assert len(sys.meta_path) == len(before) + 1
    import fw  # noqa: F401

    assert len(sys.meta_path) == len(before) + 1
    import other  # noqa: F401

    assert names == ["first", "second", "other"]
    assert sys.meta_path == before


def test_what_the_callback_raises_comes_out_of_the_import() -> None:
    def refuse(module: ModuleType) -> None:
        raise Unsupported("This machine cannot do it.")

    on_import("fw", refuse)
    with pytest.raises(Unsupported, match="^This machine cannot do it.$") as refusal:
        import user  # noqa: F401
    assert refusal.value.__context__ is None


def test_the_callback_may_import_the_module_and_its_parts() -> None:
    found: list[object] = []

    def use(module: ModuleType) -> None:
        from fw import part

        found.append(part.state)

    on_import("fw", use)
    import fw  # noqa: F401

    assert found == [["begun"]]


def test_a_module_that_replaces_itself_is_handed_over_replaced(shelf: Path) -> None:
    (shelf / "swap.py").write_text(
        "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(new=True)\n"
    )
    calls: list[ModuleType] = []
    on_import("swap", calls.append)
    import swap

    assert calls == [swap]
    assert swap.new


def test_from_a_zip_where_modules_share_a_loader(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(shelf / "shelf.zip", "w") as archive:
        archive.writestr("zfw.py", "import zother\n")
        archive.writestr("zother.py", "")
    monkeypatch.syspath_prepend(str(shelf / "shelf.zip"))
    calls: list[ModuleType] = []
    on_import("zfw", calls.append)
    importlib.util.find_spec("zfw")
    import zother  # noqa: F401

    assert calls == []
    import zfw

    assert calls == [zfw]


def test_many_threads_see_one_import() -> None:
    calls: list[ModuleType] = []
    on_import("fw", calls.append)
    seen: list[object] = []
    start = threading.Barrier(8)

    def import_it() -> None:
        start.wait()
        seen.append(importlib.import_module("fw").steps)

    threads = [threading.Thread(target=import_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert seen == [["begun", "done"]] * 8


def test_what_a_script_sets_before_the_import_still_counts(tmp_path: Path) -> None:
    """The reason for the watch: threads are set by the environment before torch is read."""
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(
        "import os, sys\nassert 'torch' not in sys.modules\nos.environ['OMP_NUM_THREADS'] = '1'\n"
        "import torch\nprint(torch.get_num_threads(), torch.__spec__.loader is torch.__loader__)\n"
    )
    begin = (
        "from halfstep.program import *; on_import('torch', lambda torch: print(torch.ones(2).sum().item())); "
        "run(Target.parse('script.py', [], module=False))"
    )
    seen = launch(["-c", begin], tmp_path)
    assert (seen.out, seen.code) == ("2.0\n1 True\n", 0), seen.err


class OfItsOwn(ModuleType):
    """A lazy module's class that knows nothing of a module's own ``__getattr__``, as some packages write it."""

    def __getattribute__(self, name: str) -> object:
        load = object.__getattribute__(self, "__dict__").pop("_load", None)
        if load is not None:
            load(self)
            self.__class__ = ModuleType
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("way", ["importlib's loader", "a class of its own"])
def test_a_module_that_is_loaded_lazily_is_seen_whole(shelf: Path, way: str) -> None:
    """With the parts that its own ``__getattr__`` gives; it ends as it would have without being watched."""
    (shelf / "fw" / "__init__.py").write_text(
        "def __getattr__(name):\n    if name == 'random':\n        return 4\n    raise AttributeError(name)\nplain = 1\n"
    )
    calls: list[object] = []
    on_import("fw", lambda module: calls.append(module.random))
    spec = importlib.util.find_spec("fw")
    assert spec is not None
    assert spec.loader is not None
    if way == "importlib's loader":
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["fw"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.util.module_from_spec(spec)
        sys.modules["fw"] = module
        vars(module)["_load"] = spec.loader.exec_module
        module.__class__ = OfItsOwn
    assert calls == []
    assert module.plain == 1
    assert calls == [4]
    assert type(module) is ModuleType
    assert module.random == 4
