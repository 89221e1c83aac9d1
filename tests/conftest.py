"""The option ``--long``: tests that try many cases by chance try many more, and those that take minutes run."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

#: Workers share the cores: a process computes with one thread, and none of its threads spins while it waits.
#: Programs that the tests start have it from here; this is before any framework is imported.
for _name, _value in (
    ("OMP_NUM_THREADS", "1"),
    ("OMP_WAIT_POLICY", "passive"),
    ("TF_NUM_INTRAOP_THREADS", "1"),
):
    os.environ.setdefault(_name, _value)

#: about signals, pipes, links and locks as POSIX has them
collect_ignore = (
    [
        "cli/test_compare.py", "cli/test_mistakes.py", "cli/test_outputs.py", "cli/test_run.py", "record/test_writer.py",
        "test_files.py", "test_platforms.py", "trials/test_fresh.py", "trials/test_process.py", "trials/test_run.py",
    ]
    if os.name == "nt"
    else []
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="try many more cases where cases are drawn by chance"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same cases in every run, except with ``--long``; no test is timed."""
    settings.register_profile("halfstep", derandomize=not config.getoption("--long"), deadline=None)
    settings.load_profile("halfstep")


@pytest.hookimpl(tryfirst=True)  # before pytest applies -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``long`` where nobody asked for it; with ``--long`` mark what tries more cases, too."""
    for item in items:
        if config.getoption("--long"):
            if "long" in getattr(item, "fixturenames", ()):
                item.add_marker("long")
        elif item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-long runs it"))


def pytest_collection_finish() -> None:
    """Leave what was imported out of later garbage collections, and of halfstep's looks at all that is there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for many cases."""
    return bool(request.config.getoption("--long"))
