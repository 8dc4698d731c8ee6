"""A prior's own answer without the beam: its place, and its probabilities of the tiles that hold the place."""

from collections.abc import Sequence

import numpy as np

from retrieval.index.manifest import Manifest
from retrieval.priors.base import Belief
from retrieval.search.answer import Answer, LevelAnswer
from retrieval.search.plan import InstalledPrior
from tile_cache.addressing import codes_at, tile_at

__all__ = ["answer_alone", "mass_at"]


def answer_alone(belief: Belief, prior: InstalledPrior, manifest: Manifest) -> Answer:
    """The answer at the zooms of an index. It is not calibrated, has no radii, and its `elsewhere` is 0."""
    lng, lat = belief.best()
    zooms = [entry.zoom for entry in manifest.zooms]
    return Answer(
        lng=lng,
        lat=lat,
        levels=_levels(belief, lng, lat, zooms),
        calibrated=False,
        radius_50_km=None,
        radius_90_km=None,
        elsewhere=0.0,
        alternatives=(),
        trace=None,
        index_id=manifest.id,
        calibration_id=None,
        zooms=tuple(zooms),
        attribution=manifest.attribution,
        pictures=manifest.viewpoint,
        prior=prior.name,
    )


def _levels(belief: Belief, lng: float, lat: float, zooms: Sequence[int]) -> tuple[LevelAnswer, ...]:
    masses = [mass_at(belief, lng, lat, zoom) for zoom in zooms]
    # Rounding must not make a tile likelier than the tile above it.
    nested = np.minimum.accumulate(np.minimum(masses, 1.0)).tolist()
    return tuple(LevelAnswer(tile_at(lng, lat, zoom), mass, None) for zoom, mass in zip(zooms, nested, strict=True))


def mass_at(belief: Belief, lng: float, lat: float, zoom: int) -> float:
    """A belief's probability of the tile of a zoom that holds a place, degrees."""
    return float(np.exp(belief.log_mass(codes_at(np.array([lng]), np.array([lat]), zoom), zoom)[0]))
