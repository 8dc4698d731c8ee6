"""How far parts of a picture lie off a fit, on pictures with a known distortion."""

import numpy as np
import pytest
from noise_earth import NoiseEarth, picture_of

from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.refine import residual_km
from retrieval.registration.result import Registration
from retrieval.registration.templates import Query

EARTH = NoiseEarth()
TRUTH = Frame.upright(30, 40, 700, 20)


def distorted(km: float, px: int = 128) -> np.ndarray:
    """The picture whose upper half is shifted by `km` to one side and whose lower half to the other."""
    u, v = pixel_centres(px)
    away = km / TRUTH.edge_km * np.where(v < 0, 1.0, -1.0)
    [(channels, _)] = EARTH.layers(*TRUTH.ground(u + away, v), TRUTH.edge_km / px)
    return np.asarray(np.clip(np.rint(np.moveaxis(channels, 0, -1)), 0, 255), dtype=np.uint8)


def test_picture_of_the_reference_lies_where_it_is_fitted() -> None:
    residual = residual_km(Query(picture_of(EARTH, TRUTH)), EARTH, TRUTH)
    assert residual is not None
    assert residual < 0.2 * TRUTH.edge_km / 64  # a fifth of a pixel


@pytest.mark.parametrize("km", [15.0, 30.0, 50.0])
def test_known_distortion_is_measured(km: float) -> None:
    residual = residual_km(Query(distorted(km)), EARTH, TRUTH)
    assert residual == pytest.approx(km, rel=0.15, abs=2)


def test_blocks_without_edges_are_left_out() -> None:
    picture = distorted(30.0)
    picture[:, :64] = 90  # the left half shows nothing
    assert residual_km(Query(picture), EARTH, TRUTH) == pytest.approx(30, rel=0.2)
    picture[:, 20:] = 90
    assert residual_km(Query(picture), EARTH, TRUTH) is None


def test_without_a_frame_there_is_no_residual() -> None:
    assert Registration((10, 10), reason="x").residual_km is None
