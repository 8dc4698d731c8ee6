"""Outcomes, compared with the answers and descents themselves."""

import numpy as np
import pytest

from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.exhaustive import Exhaustive
from indexer.evaluation.figures import Row, figures_of
from indexer.evaluation.outcomes import Pictures, search_all
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.search.query import LocateQuery
from retrieval.sphere import great_circle_km
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, fake_pyramid, unit_rows, write_fake_index
from tile_cache.addressing import centre, code_of_tile, tile_of_code

ZOOMS, DIM = [2, 4, 6], 16


@pytest.fixture(scope="module")
def levels() -> list[FakeLevel]:
    return fake_pyramid(4, ZOOMS, DIM, tiles=150, holes=0.15, thinning=0.2)


@pytest.fixture(scope="module")
def locator(levels: list[FakeLevel], tmp_path_factory: pytest.TempPathFactory) -> Locator:
    folder, photo = tmp_path_factory.mktemp("index"), FakePhotoEncoder(DIM)
    write_fake_index(folder, levels, photo=photo)
    numbers = {z: ZoomNumbers(tau=0.1, gamma=0.8, b=1.0) for z in ZOOMS}
    return Locator(TileIndex.open(folder), Calibration(numbers), photo)


@pytest.fixture(scope="module")
def known(levels: list[FakeLevel]) -> KnownPictures:
    """Pictures at centres of deepest tiles, with noisy vectors of these; two in unindexed tiles; one placeless."""
    rng, deepest = np.random.default_rng(0), levels[-1]
    rows = rng.integers(0, len(deepest.codes), 80)
    places = [centre(tile_of_code(int(deepest.codes[row]), deepest.zoom)) for row in rows]
    embeddings = unit_rows(deepest.vectors[rows] + 0.5 * rng.standard_normal((80, DIM)))
    missing = np.setdiff1d(np.arange(4**6, dtype=np.uint64), deepest.codes)[:2]
    places += [centre(tile_of_code(int(code), 6)) for code in missing] + [(np.nan, np.nan)]
    lng, lat = (np.array(v) for v in zip(*places, strict=True))
    return KnownPictures(np.concatenate([embeddings, embeddings[:3]]), lng, lat)


@pytest.mark.parametrize("scoring", ["posterior", "paper"])
@pytest.mark.parametrize("k", [1, 4, 64])
def test_outcomes_equal_the_answers_of_locate(locator: Locator, known: KnownPictures, k: int, scoring: str) -> None:
    query = LocateQuery(k=k, scoring=scoring)
    outcomes = search_all(locator, Pictures.of(known, locator.index), locator.plan(query))
    answers = locator.locate(known.embeddings, LocateQuery(k=k, scoring=scoring, trace=True))
    for i, answer in enumerate(answers):
        assert (outcomes.lng[i], outcomes.lat[i], outcomes.elsewhere[i]) == (answer.lng, answer.lat, answer.elsewhere)
        assert answer.confidence == outcomes.confidence[i]
        assert outcomes.depth[i] == answer.levels[-1].tile.z
        for zoom, z in zip(outcomes.zooms, ZOOMS, strict=True):
            codes, has_place = known.codes(z)
            level = next((v for v in answer.levels if v.tile.z == z), None)
            right = level is not None and bool(has_place[i]) and code_of_tile(level.tile) == codes[i]
            assert (zoom.reached[i], zoom.right[i]) == (level is not None, right)
            assert zoom.confidence[i] == (level.confidence if level else 0)
            traced = next((t for t in answer.trace or () if t.zoom == z), None)
            beam = [code_of_tile(t.tile) for t in traced.beam] if traced else []
            assert zoom.in_beam[i] == (bool(has_place[i]) and int(codes[i]) in beam)
            assert zoom.in_beam[i] or not zoom.best[i]


def test_best_is_the_highest_score_of_the_level(locator: Locator, known: KnownPictures) -> None:
    for scoring in ("posterior", "paper"):
        query = LocateQuery(k=5, scoring=scoring)
        outcomes = search_all(locator, Pictures.of(known, locator.index), locator.plan(query))
        for i, embedding in enumerate(known.embeddings):
            for step, zoom in zip(locator.descend(embedding, locator.plan(query)).steps, outcomes.zooms, strict=False):
                code, has_place = (v[i] for v in known.codes(zoom.zoom))
                scores = step.log_mass if scoring == "posterior" else step.similarities
                top = step.level.codes[step.rows[np.lexsort((step.rows, -scores))[0]]]
                assert zoom.best[i] == (has_place and top == code)


def test_picture_without_indexed_place_is_right_nowhere(locator: Locator, known: KnownPictures) -> None:
    outcomes = search_all(locator, Pictures.of(known, locator.index), locator.plan(LocateQuery()))
    assert np.isnan(outcomes.km[-1])
    assert np.isfinite(outcomes.km[:-1]).all()
    for zoom in outcomes.zooms:
        assert not np.any([zoom.covered[-1], zoom.right[-1], zoom.best[-1]])
    assert not outcomes.zooms[-1].covered[-3:].any()
    assert not outcomes.zooms[-1].right[-3:].any()


def test_figures_of_a_row_by_hand(locator: Locator, known: KnownPictures) -> None:
    placed = known.take(np.arange(82))
    pictures = Pictures.of(placed, locator.index)
    narrow, wide = (search_all(locator, pictures, locator.plan(LocateQuery(k=k))) for k in (1, 64))
    rows = [Row("one", 1, "posterior", narrow, 0.0), Row("one", 64, "posterior", wide, 0.0)]
    figures = figures_of(rows[1], rows[0], Resamples(82, 50))
    km = great_circle_km(wide.lng, wide.lat, placed.lng, placed.lat)
    assert figures.errors["median_km"].value == pytest.approx(np.median(km))
    assert figures.errors["within_750_km"].value == pytest.approx((km <= 750).mean())
    assert figures.differences["mean_km"].value == pytest.approx(km.mean() - narrow.km.mean())
    assert figures.zooms[4]["beam_recall"].value == pytest.approx(wide.zooms[1].in_beam.mean())
    gain = figures.differences["recall_at_1_zoom_6"].value
    assert gain == pytest.approx(wide.zooms[2].best.mean() - narrow.zooms[2].best.mean())
    has_circle = np.isfinite(wide.radius_90_km)
    assert figures.circles["holds_90"].value == pytest.approx((km[has_circle] <= wide.radius_90_km[has_circle]).mean())


def test_narrow_beam_loses_true_tiles_and_wide_beam_none(locator: Locator, known: KnownPictures) -> None:
    pictures = Pictures.of(known, locator.index)
    in_beam = [search_all(locator, pictures, locator.plan(LocateQuery(k=k))).zooms[-1].in_beam for k in (1, 1024)]
    ranks = np.stack([Exhaustive(locator.index).ranks(e, np.array([r[i] for r in pictures.rows]))
                      for i, e in enumerate(known.embeddings)])  # fmt: skip
    assert in_beam[0].sum() < in_beam[1].sum()
    assert (in_beam[1] == (ranks >= 0).all(axis=1)).all()  # all true tiles with vectors on their path
