"""Preprocessing, compared with open_clip's transforms; levelling; invalid descriptions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.encoders.preprocess import Preprocess, levelled
from retrieval.errors import EncoderError

HALF = (0.5, 0.5, 0.5)
PLAIN = Preprocess(24, HALF, HALF)
LEVELLED = Preprocess(24, HALF, (0.25, 0.25, 0.25), contrast_floor=0.04)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (101, 64), (64, 333), (17, 11), (24, 24), (500, 25), (1, 1)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_equals_open_clip_transform(size: tuple[int, int], resize: str, interpolation: str) -> None:
    """Within one step of 8 bits, because Pillow may resample rows before columns in one and not in the other."""
    from open_clip.transform import image_transform

    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    transform = image_transform(24, False, mean, std, resize_mode=resize, interpolation=interpolation)
    preprocess = Preprocess(24, mean, std, interpolation, resize)  # type: ignore[arg-type]
    picture = noise(*size)
    expected, actual = transform(picture).numpy(), preprocess.picture(picture)
    steps = np.abs(expected - actual) * np.array(std)[:, None, None] * 255
    assert steps.max() < 1.01
    assert steps.mean() < 0.05


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (20000, 10), (1, 1), (2, 3)])
def test_extreme_shapes_are_cropped_to_the_middle(size: tuple[int, int]) -> None:
    columns, rows = (np.abs(np.arange(length) + 0.5 - length / 2) <= 5 for length in size)
    pixels = np.repeat(np.outer(rows, columns)[..., None] * np.uint8(255), 3, axis=2)
    for preprocess in (PLAIN, LEVELLED):
        output = preprocess.picture(Image.fromarray(pixels))
        assert output.shape == (3, 24, 24)
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
        assert output.mean() > 0  # the white middle is seen, not the black ends


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64))
@settings(max_examples=60)
def test_any_shape_gives_encoder_input(width: int, height: int, size: int) -> None:
    output = Preprocess(size, HALF, HALF).picture(Image.new("RGB", (width, height), (255, 128, 0)))
    assert output.shape == (3, size, size)
    assert np.allclose(output, np.array([1, 128 / 127.5 - 1, -1])[:, None, None], atol=0.01)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_are_converted(mode: str) -> None:
    assert PLAIN.picture(noise(40, 30).convert(mode)).shape == (3, 24, 24)


def pictures(seed: int, n: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (n, 3, 24, 24)).astype(np.float32)


@given(st.integers(0, 1000), st.floats(0.2, 1.0))
@settings(max_examples=25)
def test_levelling_removes_contrast(seed: int, contrast: float) -> None:
    """Haze, which pulls every colour to the picture's mean, changes nothing beyond the effect of the floor."""
    clear = pictures(seed)
    mean = clear.mean((2, 3), keepdims=True)
    assert np.abs(levelled(clear, 1e-6) - levelled(mean + (clear - mean) * np.float32(contrast), 1e-6)).max() < 1e-3


@given(st.integers(0, 1000), st.floats(-0.2, 0.2))
@settings(max_examples=25)
def test_levelling_halves_a_brightness_shift(seed: int, shift: float) -> None:
    clear = pictures(seed)
    apart = levelled(clear + np.float32(shift), 0.04) - levelled(clear, 0.04)
    assert np.abs(apart - shift / 2).max() < 1e-4


def test_levelling_treats_each_picture_separately() -> None:
    batch = pictures(3)
    alone = np.concatenate([levelled(batch[i : i + 1], 0.04) for i in range(len(batch))])
    assert np.allclose(levelled(batch, 0.04), alone, atol=1e-6)


def test_floor_keeps_a_flat_picture_flat() -> None:
    grain = np.full((1, 3, 24, 24), 0.6, dtype=np.float32) + pictures(1, 1) * np.float32(0.004)
    output = levelled(grain, 0.04)
    assert np.ptp(output) < 0.03
    assert np.allclose(levelled(np.full((1, 3, 8, 8), 0.6, dtype=np.float32), 0.04), 0.55, atol=1e-5)


def test_pixels_does_not_change_its_input() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    before = tiles.copy()
    LEVELLED.pixels(tiles)
    assert np.array_equal(tiles, before)


@pytest.mark.parametrize("preprocess", [PLAIN, LEVELLED, Preprocess(8, HALF, HALF, "bilinear", "squash")])
def test_preprocess_round_trips_through_json(preprocess: Preprocess) -> None:
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": "24"},
        {"size": None},
        {"mean": [0.5]},
        {"mean": 0.5},
        {"mean": [0.5, 0.5, "x"]},
        {"std": [0.5, 0, 0.5]},
        {"interpolation": "nearest"},
        {"interpolation": ["bicubic"]},
        {"resize": "longest"},
        {"contrast_floor": 0},
        {"contrast_floor": "low"},
        {"sharpen": 1},
    ],
)
def test_invalid_values_raise(change: dict[str, object]) -> None:
    with pytest.raises(EncoderError, match="unknown preprocessing"):
        Preprocess.from_json({**PLAIN.to_json(), **change})


@pytest.mark.parametrize("lacking", ["size", "mean", "std"])
def test_missing_value_is_named(lacking: str) -> None:
    values = PLAIN.to_json()
    del values[lacking]
    with pytest.raises(EncoderError, match=lacking):
        Preprocess.from_json(values)
