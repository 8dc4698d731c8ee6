"""Small indexes for the tests of calibration."""

from pathlib import Path

import pytest
import torch
from drawn_places import DIM, SEED

from retrieval.index.reader import TileIndex
from retrieval.testing.fake import fake_pyramid, write_fake_index


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tensors here are small, and tests share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    """One zoom of 64 tiles, all neighbours of one another."""
    return _index(tmp_path_factory.mktemp("flat"), [3], tiles=64, holes=0.0, thinning=0.0)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    """Two zooms, every tile of both: 64 and 1,024."""
    return _index(tmp_path_factory.mktemp("dense"), [3, 5], tiles=1024, holes=0.0, thinning=0.0)


@pytest.fixture(scope="session")
def holed(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    """Two zooms of 64 and 400, some tiles with nothing beneath and some without a vector."""
    return _index(tmp_path_factory.mktemp("holed"), [3, 5], tiles=400, holes=0.05, thinning=0.1)


def _index(directory: Path, zooms: list[int], **how: float) -> TileIndex:
    write_fake_index(directory, fake_pyramid(SEED, zooms, DIM, **how))  # type: ignore[arg-type]
    return TileIndex.open(directory)
