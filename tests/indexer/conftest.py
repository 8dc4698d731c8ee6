"""Fixtures: a tile server on loopback."""

from collections.abc import Iterator

import pytest
from workbench import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state
