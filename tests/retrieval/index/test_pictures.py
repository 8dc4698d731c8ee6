"""Where an index's pictures are taken from: a fact of the manifest that its id ignores."""

from dataclasses import replace
from pathlib import Path

import pytest

from indexer.build.request import BuildRequest
from indexer.errors import BuildError
from retrieval.errors import IndexDamagedError
from retrieval.files import write_json
from retrieval.index.manifest import BUILT_IN_ENCODER, Manifest
from retrieval.testing.fake import fake_pyramid, write_fake_index


def test_pictures_are_kept_and_do_not_change_the_id(tmp_path: Path) -> None:
    manifest = write_fake_index(tmp_path, fake_pyramid(1, (2, 4), 8))
    assert (manifest.pictures, manifest.viewpoint) == (None, None)
    for pictures in ("above", "ground"):
        replace(manifest, pictures=pictures).write(tmp_path)
        again = Manifest.read(tmp_path)
        assert (again.pictures, again.viewpoint, again.id) == (pictures, pictures, manifest.id)


def test_an_older_index_of_the_built_in_encoder_is_from_above(tmp_path: Path) -> None:
    manifest = write_fake_index(tmp_path, fake_pyramid(1, (2, 4), 8))
    older = replace(manifest, photo_encoder={**manifest.photo_encoder, "name": BUILT_IN_ENCODER})
    assert older.viewpoint == "above"
    assert replace(older, pictures="ground").viewpoint == "ground"


def test_other_words_are_refused(tmp_path: Path) -> None:
    manifest = write_fake_index(tmp_path, fake_pyramid(1, (2, 4), 8))
    write_json(tmp_path / "manifest.json", manifest.to_json() | {"pictures": "sideways"})
    with pytest.raises(IndexDamagedError, match="'sideways'"):
        Manifest.read(tmp_path)
    with pytest.raises(BuildError, match="'sideways': use above or ground"):
        BuildRequest(source="bluemarble", zooms=(4,), out=tmp_path, pictures="sideways")
