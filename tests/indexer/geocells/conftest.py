"""Fixtures of the geocell tests."""

from pathlib import Path

import pytest
from known_structure import draw_pictures, known_partition, tiny_encoder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv, images/, partition/ and encoder/, created once."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_pictures(folder)
    (folder / "partition").mkdir()
    known_partition().write(folder / "partition")
    tiny_encoder(folder / "encoder")
    return folder
