"""The option ``--long``: tests that try many cases by chance try many more."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="try many more cases where cases are drawn by chance"
    )


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for many cases."""
    return bool(request.config.getoption("--long"))
