"""Styles: they follow from a seed, stay within bounds, and change nothing by default."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Earth, Views

Earths = Callable[..., Earth]
FULL = Style(
    mix=1, sea=1, snow=1, remap=1, grey=1, colour=1, contrast=1, gamma=1, haze=1, haze_strength=1, cloud=1,
    cloud_cover=1, blur=1, blur_pixels=3, noise=1, noise_strength=0.3, jpeg=1, jpeg_quality=5,
)  # fmt: skip


def views(n: int = 6, lng: float = 0.0) -> Views:
    return Views(np.full(n, lng), np.linspace(-60, 70, n), np.full(n, 900.0), np.zeros(n))


def draw(earth: Earth, style: Style, seed: int = 0, lng: float = 0.0, share: float = 1.0) -> torch.Tensor:
    return Stylist(earth, style).draw(views(lng=lng), 24, np.random.default_rng(seed), share)


def plain(earth: Earth, lng: float = 0.0) -> torch.Tensor:
    return earth.draw(views(lng=lng), np.zeros(6, dtype=np.int64), 24)


def test_default_style_changes_nothing(earths: Earths) -> None:
    """Except black, which gamma lifts by a ten-thousandth."""
    assert (draw(earths("compass"), Style()) - plain(earths("compass"))).abs().max() < 2e-4
    assert (draw(earths("compass"), FULL, share=0) - plain(earths("compass"))).abs().max() < 2e-4


def test_seed_decides_the_style(earths: Earths) -> None:
    earth = earths("compass", "white")
    assert torch.equal(draw(earth, FULL, 1), draw(earth, FULL, 1))
    assert not torch.equal(draw(earth, FULL, 1), draw(earth, FULL, 2))


@pytest.mark.parametrize("seed", range(5))
def test_styled_pictures_are_finite_and_from_0_to_1(earths: Earths, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = replace(FULL, **{name: rng.uniform() for name in ("mix", "sea", "cloud", "blur", "jpeg", "remap")})
    for style in (FULL, some):
        drawn = draw(earths("compass", "white"), style, seed)
        assert torch.isfinite(drawn).all()
        assert drawn.min() >= 0
        assert drawn.max() <= 1


ONE_BY_ONE = {
    "sea": Style(sea=1),
    "snow": Style(snow=1),
    "remap": Style(remap=1),
    "grey": Style(grey=1),
    "colour": Style(colour=0.5),
    "contrast": Style(contrast=0.5),
    "gamma": Style(gamma=0.5),
    "haze": Style(haze=1, haze_strength=0.5),
    "cloud": Style(cloud=1, cloud_cover=0.6),
    "noise": Style(noise=1, noise_strength=0.1),
    "jpeg": Style(jpeg=1, jpeg_quality=10),
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_each_style_changes_every_picture(earths: Earths, name: str) -> None:
    difference = (draw(earths("compass"), ONE_BY_ONE[name]) - plain(earths("compass"))).abs().amax((1, 2, 3))
    assert (difference > 3e-3).all()


def test_blur_smooths_and_mix_blends(earths: Earths) -> None:
    board = earths("board")
    sharp, soft = (draw(board, style) for style in (Style(), Style(blur=1, blur_pixels=9)))
    assert (soft.std((2, 3)) < sharp.std((2, 3))).all()
    assert torch.allclose(soft.mean((2, 3)), sharp.mean((2, 3)), atol=0.05)
    mixed = draw(earths("compass", "white"), Style(mix=1))
    assert not any(torch.equal(m, p) for m, p in zip(mixed, plain(earths("compass")), strict=True))


def test_grey_has_no_colour(earths: Earths) -> None:
    drawn = draw(earths("compass"), Style(grey=1))
    assert (drawn - drawn.mean(1, keepdim=True)).abs().max() < 1e-3


def test_sea_changes_only_water_and_snow_only_land(earths: Earths) -> None:
    """Land begins at Greenwich, in the middle of these pictures."""
    earth = earths("compass")
    sea, snow = ((draw(earth, s) - plain(earth)).abs() for s in (Style(sea=1), Style(snow=1)))
    assert sea[..., 13:].max() < 1e-3 < sea[..., :11].mean()
    assert snow[..., :11].max() < 1e-3 < snow[..., 13:].mean()


def test_share_scales_chances_and_colours_but_not_quality() -> None:
    half = FULL.scaled(0.5)
    assert (half.mix, half.colour, half.jpeg, half.noise) == (0.5, 0.5, 0.5, 0.5)
    assert (half.jpeg_quality, half.blur_pixels, half.cloud_cover) == (5, 3, 1)
    assert FULL.scaled(1.0) == FULL


def test_unknown_style_name_is_refused() -> None:
    assert Style.from_json(asdict(FULL)) == FULL
    with pytest.raises(ValueError, match="fog"):
        Style.from_json({"fog": 1.0})
