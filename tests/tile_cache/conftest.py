"""Fixtures: a tile server whose answers a test can replace, and an empty cache of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import TileServer, serving

from tile_cache.fetch.client import FetchSettings
from tile_cache.mbtiles import TileStore
from tile_cache.source import SourceInfo


@pytest.fixture
def server() -> Iterator[TileServer]:
    """A server that answers with `tile_image`, until a test replaces `answer`."""
    with serving() as tiles:
        yield tiles


@pytest.fixture
def info() -> SourceInfo:
    return SourceInfo("test tiles", "test:1", "nobody", 0, 20, 256)


@pytest.fixture
def store(tmp_path: Path, server: TileServer) -> Iterator[TileStore]:
    """An empty cache of the server."""
    with TileStore.open(tmp_path / "cache.mbtiles", server.source.info) as opened:
        yield opened


@pytest.fixture
def hasty() -> FetchSettings:
    """Settings for a server on the same machine: fast, few attempts, short waits."""
    return FetchSettings(
        rate_per_s=float("inf"), attempts=3, backoff_s=0.01, max_backoff_s=0.02, deadline_s=2.0, flush_s=0.05
    )
