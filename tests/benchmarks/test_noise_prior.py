"""The negative control: firm beliefs that depend on the picture and on nothing else."""

import numpy as np

from benchmarks.support.noise_prior import NoisePrior
from tile_cache.addressing import codes_at


def test_equal_features_give_equal_places_and_others_give_others() -> None:
    features = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    prior = NoisePrior()
    places = np.array([b.best() for b in prior.beliefs(features)])
    again = np.array([b.best() for b in prior.beliefs(features[::-1])])[::-1]
    assert (places == again).all()
    assert len(np.unique(places, axis=0)) > 250
    assert abs(places[:, 1].mean()) < 10  # even over tiles
    belief = prior.beliefs(features[:1])[0]
    tile = codes_at(places[:1, 0], np.clip(places[:1, 1], -85, 85), 4)
    assert np.exp(belief.log_mass(tile, 4))[0] > 10 / 256
