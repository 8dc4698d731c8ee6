"""A picture's registration: its square turned upright, and what hints say of the square."""

import numpy as np
import pytest

from retrieval.attempt import TURNS, hints_for, shrunk, turned_square
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.registration import Hints


def drawn(heading: float, px: int = 128) -> np.ndarray:
    """A smooth ground, (px, px, 3), as a picture whose top points to `heading`."""
    lng, lat = Frame.upright(10, 20, 500, heading).ground(*pixel_centres(px))
    red, green = 128 + 100 * np.sin(lng * 2.1), 128 + 100 * np.sin(lat * 1.7 + lng)
    return np.stack([red, green, 0.5 * (red + green)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("heading", [0.0, *TURNS])
def test_turned_square_has_north_up(heading: float) -> None:
    upright = np.asarray(turned_square(drawn(heading), heading), dtype=float)
    middle = slice(40, 88)  # what every turn shows
    assert upright.shape == (128, 128, 3)
    assert np.abs(upright - drawn(0.0))[middle, middle].mean() < 4


def test_a_shrunk_square_shows_the_same_when_turned() -> None:
    large, small = drawn(225.0, 512), drawn(225.0, 128)
    assert shrunk(small, 128) is small
    assert np.abs(shrunk(large, 128).astype(float) - small).mean() < 2
    upright = np.asarray(turned_square(shrunk(large, 128), 225.0), dtype=float)
    assert np.abs(upright - drawn(0.0))[40:88, 40:88].mean() < 4


def test_hints_are_of_the_central_square() -> None:
    assert hints_for(None, 30.0, (400, 200)) == Hints(heading=30.0)
    assert hints_for(1000.0, None, (400, 200)) == Hints(width_km=500.0)
    assert hints_for(1000.0, None, (200, 400)) == Hints(width_km=1000.0)
    assert "the shorter edge would be 50 km" in str(hints_for(100.0, None, (400, 200)))


@pytest.mark.parametrize("size", [(2, 2), (400, 15), (1, 400)])
def test_picture_with_fewer_pixels_than_a_template_is_not_searched(size: tuple[int, int]) -> None:
    assert hints_for(None, None, size) == f"the picture has {size[0]} x {size[1]} pixels: both edges need at least 16"
