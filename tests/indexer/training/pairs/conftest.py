"""Helpers of these tests lie beside them; a small world of tiles and photos is made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "photos"))  # `damaged`

from small_world import SmallWorld, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Tiles of zooms 2 and 4, 320 photos and a tiny encoder, on disk."""
    return make_world(tmp_path_factory.mktemp("world"))
