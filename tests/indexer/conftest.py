"""Fixtures: a tile server on loopback."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Under importlib mode a test folder is not on the path, and `workbench` is shared by the tests here.
sys.path.insert(0, str(Path(__file__).parent))

from workbench import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state
