"""Pictures whose places are drawn from a posterior with known numbers, and their likelihood under other numbers."""

import numpy as np

from indexer.evaluation.metrics import Bools, Floats
from indexer.photos.embed import KnownPictures, joined
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.search.beam import Descent, descend
from retrieval.search.plan import SearchPlan
from retrieval.search.query import LocateQuery
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, fake_pyramid, unit_rows
from tile_cache.addressing import centres_of_codes, codes_at

DIM, K, SEED = 16, 12, 5


def drawn(index: TileIndex, truth: Calibration, n: int, seed: int, k: int = K) -> KnownPictures:
    """Random embeddings, at the centres of frontier tiles drawn by their mass."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.standard_normal((n, DIM)))
    places = [_place(descend(index, row, SearchPlan(truth, k=k)), rng) for row in rows]
    return KnownPictures(rows, *(np.array(v) for v in zip(*places, strict=True)))


def lost(n: int, seed: int) -> KnownPictures:
    """Pictures whose embeddings and places are independent."""
    rng = np.random.default_rng([seed, 1])
    lat = np.degrees(np.arcsin(rng.uniform(-0.95, 0.95, n)))
    return KnownPictures(unit_rows(rng.standard_normal((n, DIM))), rng.uniform(-180, 180, n), lat)


def nowhere(n: int, seed: int) -> KnownPictures:
    """Pictures of no place."""
    return KnownPictures(lost(n, seed).embeddings, np.full(n, np.nan), np.full(n, np.nan))


def mixed(index: TileIndex, truth: Calibration, n: int, seed: int) -> KnownPictures:
    """Three of four drawn from the posterior, one of four uninformative: no numbers are right for all of them."""
    both = joined([drawn(index, truth, n - n // 4, seed), lost(n // 4, seed)])
    return both.take(np.random.default_rng(seed).permutation(n))


def likelihoods(index: TileIndex, pictures: KnownPictures, calibration: Calibration) -> Floats:
    """The frontier mass at each picture's place, (n,), summed over the frontier and not by the fit's arithmetic."""
    every = zip(pictures.embeddings, pictures.lng, pictures.lat, strict=True)
    return np.array([_mass_over(descend(index, row, SearchPlan(calibration, k=K)), *at) for row, *at in every])


def deepest_tiles(index: TileIndex) -> FakeLevel:
    """Codes and vectors of the last zoom of `conftest.dense`."""
    level = fake_pyramid(SEED, index.zooms, DIM, tiles=len(index.levels[-1].codes), holes=0.0)[-1]
    assert np.array_equal(level.codes, index.levels[-1].codes)
    return level


def located(
    index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int = K
) -> tuple[list[Floats], list[Bools]]:
    """For each picture the confidences of the answer's tiles, coarse to fine, and which of the tiles hold the place."""
    answers = locator(index, calibration).locate(pictures.embeddings, LocateQuery(k=k))
    confidences, right = [], []
    for answer, lng, lat in zip(answers, pictures.lng, pictures.lat, strict=True):
        tiles = [level.tile for level in answer.levels]
        true = [codes_at(np.array([lng]), np.array([lat]), tile.z)[0] for tile in tiles]
        answered = [codes_at(np.array([answer.lng]), np.array([answer.lat]), tile.z)[0] for tile in tiles]
        confidences.append(np.array([level.confidence for level in answer.levels]))
        right.append(np.array([a == b for a, b in zip(true, answered, strict=True)]))
    return confidences, right


def locator(index: TileIndex, calibration: Calibration) -> Locator:
    """A locator with a fake encoder."""
    return Locator(index, calibration, FakePhotoEncoder(DIM))


def _place(descent: Descent, rng: np.random.Generator) -> tuple[float, float]:
    frontier = descent.frontier()
    chosen = int(rng.choice(len(frontier.mass), p=frontier.mass / frontier.mass.sum()))
    step = descent.steps[frontier.steps[chosen]]
    code = step.level.codes[step.rows[frontier.positions[chosen]]]
    lng, lat = centres_of_codes(np.array([code]), step.level.zoom)
    return float(lng[0]), float(lat[0])


def _mass_over(descent: Descent, lng: float, lat: float) -> float:
    frontier, total = descent.frontier(), 0.0
    for s, step in enumerate(descent.steps):
        wanted = codes_at(np.array([lng]), np.array([lat]), step.level.zoom)[0]
        own = frontier.steps == s
        total += frontier.mass[own][step.level.codes[step.rows[frontier.positions[own]]] == wanted].sum()
    return float(total)
