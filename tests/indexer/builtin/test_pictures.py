"""Pictures for fitting and measuring: they follow from their seed and keep the order of their places."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.builtin.pictures import PictureSet, embed_views, nowhere_pictures, sea_views, to_pixels
from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Centres, Earth, Views, draw_views
from indexer.photos.embed import KnownPictures
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


def test_seed_decides_the_pictures(earths: Earths) -> None:
    centres, encoder = Centres(-60, 78, 6, 0.1), FakePhotoEncoder(16)

    def embed(seed: int) -> KnownPictures:
        rng = np.random.default_rng(seed)
        views = draw_views(centres, SET.count, SET.footprint_km, SET.turn, rng)
        return embed_views(Stylist(earths("compass"), SET.style), views, SET.size, encoder, rng)

    first, again, other = embed(4), embed(4), embed(5)
    assert len(first) == 70  # drawn in more than one chunk
    assert np.array_equal(first.embeddings, again.embeddings)
    assert np.array_equal(first.lng, again.lng)
    assert not np.array_equal(first.lng, other.lng)


def test_embeddings_keep_the_order_of_their_places(earths: Earths) -> None:
    """Also across chunks; the compass's colours differ from place to place."""
    views = Views(np.linspace(-170, 170, 70), np.full(70, 10.0), np.full(70, 800.0), np.zeros(70))
    stylist, encoder, rng = Stylist(earths("compass"), Style()), FakePhotoEncoder(16), np.random.default_rng(0)
    together = embed_views(stylist, views, 32, encoder, rng)
    for i in (0, 63, 64, 69):
        alone = embed_views(stylist, views.take(np.array([i])), 32, encoder, rng)
        similarities = together.embeddings @ alone.embeddings[0]
        assert similarities.argmax() == i
        assert together.lng[i] == alone.lng[0]


def test_pixels_are_rounded_not_truncated(earths: Earths) -> None:
    drawn = earths("white").draw(Views(*(np.zeros(1) + v for v in (0, 0, 500, 0))), np.zeros(1, dtype=np.int64), 8)
    assert (to_pixels(drawn * 0.999) == 255).all()
    assert to_pixels(drawn).shape == (1, 8, 8, 3)


def test_pictures_of_no_place_are_of_many_kinds() -> None:
    pictures = nowhere_pictures(50, 24, 1)
    assert pictures.shape == (50, 24, 24, 3)
    assert pictures.dtype == np.uint8
    assert np.array_equal(pictures, nowhere_pictures(50, 24, 1))
    assert not np.array_equal(pictures, nowhere_pictures(50, 24, 2))
    assert len({m.tobytes() for m in pictures}) == 50


def test_sea_views_see_no_land_in_their_tile() -> None:
    views = sea_views(300, (200, 1000), 15, 3, 7)
    assert len(views) == len(views.turn) == 300
    assert (BlueMarble().land_fraction(codes_at(views.lng, views.lat, 7), 7) == 0).all()
    assert np.abs(views.lat).max() > 60
    assert 200 <= views.footprint_km.min() < views.footprint_km.max() <= 1000
