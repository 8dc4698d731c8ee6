"""Sets of pictures: decided by their seed, drawn as files would hold them, and of no place where they should be."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.builtin.pictures import PictureSet, embed_set, embed_views, nowhere_pictures, sea_views, to_pixels
from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Centres, Earth, Views
from retrieval.testing.fake import FakePhotoEncoder
from tile_cache.addressing import codes_at
from tile_cache.bluemarble import BlueMarble

Earths = Callable[..., Earth]
SET = PictureSet("some", 4, 70, 32, ("compass",), (500.0, 900.0), 10.0, Style(noise=0.5, noise_strength=0.1))


def test_sets_are_read_with_their_names(tmp_path: Path) -> None:
    entry = {"seed": 4, "count": 70, "size": 32, "products": ["compass"], "footprint_km": [500, 900], "turn": 10}
    style = {"noise": 0.5, "noise_strength": 0.1}
    (tmp_path / "sets.json").write_text(json.dumps({"some": {**entry, "style": style}}))
    assert PictureSet.read(tmp_path / "sets.json") == {"some": SET}
    (tmp_path / "sets.json").write_text(json.dumps({"some": {**entry, "style": {"fog": 1}}}))
    with pytest.raises(ValueError, match="fog"):
        PictureSet.read(tmp_path / "sets.json")


def test_a_set_is_decided_by_its_seed(earths: Earths) -> None:
    centres, encoder = Centres(-60, 78, 6, 0.1), FakePhotoEncoder(16)
    first, again, other = (embed_set(s, earths("compass"), centres, encoder) for s in (SET, SET, replace(SET, seed=5)))
    assert len(first) == 70  # more than one chunk
    assert np.array_equal(first.embeddings, again.embeddings)
    assert np.array_equal(first.lng, again.lng)
    assert not np.array_equal(first.lng, other.lng)
    with pytest.raises(ValueError, match="some is drawn from"):
        embed_set(SET, earths("white"), centres, encoder)


def test_embeddings_stay_beside_their_places(earths: Earths) -> None:
    """Whatever the chunk: the compass's colours differ from place to place."""
    views = Views(np.linspace(-170, 170, 70), np.full(70, 10.0), np.full(70, 800.0), np.zeros(70))
    stylist, encoder, rng = Stylist(earths("compass"), Style()), FakePhotoEncoder(16), np.random.default_rng(0)
    together = embed_views(stylist, views, 32, encoder, rng)
    for i in (0, 63, 64, 69):
        alone = embed_views(stylist, views.take(np.array([i])), 32, encoder, rng)
        similarities = together.embeddings @ alone.embeddings[0]
        assert similarities.argmax() == i
        assert together.lng[i] == alone.lng[0]


def test_pixels_are_rounded_and_not_cut(earths: Earths) -> None:
    drawn = earths("white").draw(Views(*(np.zeros(1) + v for v in (0, 0, 500, 0))), np.zeros(1, dtype=np.int64), 8)
    assert (to_pixels(drawn * 0.999) == 255).all()
    assert to_pixels(drawn).shape == (1, 8, 8, 3)


def test_pictures_of_no_place_are_of_many_kinds() -> None:
    made = nowhere_pictures(50, 24, 1)
    assert made.shape == (50, 24, 24, 3)
    assert made.dtype == np.uint8
    assert np.array_equal(made, nowhere_pictures(50, 24, 1))
    assert not np.array_equal(made, nowhere_pictures(50, 24, 2))
    assert len({m.tobytes() for m in made}) == 50


def test_sea_views_see_no_land_in_their_tile() -> None:
    views = sea_views(300, (200, 1000), 15, 3, 7)
    assert len(views) == len(views.turn) == 300
    assert (BlueMarble().land_fraction(codes_at(views.lng, views.lat, 7), 7) == 0).all()
    assert np.abs(views.lat).max() > 60
    assert 200 <= views.footprint_km.min() < views.footprint_km.max() <= 1000
