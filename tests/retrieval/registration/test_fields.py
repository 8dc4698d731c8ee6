"""Orientation fields: they keep the direction of edges and forget contrast."""

import numpy as np
from noise_earth import NoiseEarth, picture_of

from retrieval.registration.fields import fused, orientation_field
from retrieval.registration.geometry import Frame

PICTURE = picture_of(NoiseEarth(), Frame.upright(10, 20, 900), 64).transpose(2, 0, 1).astype(np.float32)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two fields."""
    return float(np.vdot(a, b).real / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real))


def test_inverted_picture_has_the_same_field() -> None:
    assert np.allclose(orientation_field(PICTURE), orientation_field(255 - PICTURE), atol=1e-3)


def test_faint_picture_has_nearly_the_same_field() -> None:
    assert likeness(orientation_field(PICTURE), orientation_field(100 + PICTURE / 4)) > 0.95


def test_quarter_turn_turns_the_double_angle_by_a_half() -> None:
    turned = orientation_field(np.ascontiguousarray(np.rot90(PICTURE, axes=(1, 2))))
    assert np.allclose(turned, -np.rot90(orientation_field(PICTURE)), atol=1e-3)


def test_batch_equals_pictures_one_by_one() -> None:
    both = orientation_field(np.stack([PICTURE, PICTURE[:, ::-1]]))
    assert np.allclose(both[1], orientation_field(np.ascontiguousarray(PICTURE[:, ::-1])), atol=1e-4)


def test_flat_picture_has_no_field() -> None:
    assert np.abs(orientation_field(np.full((3, 16, 16), 77, dtype=np.float32))).max() < 1e-3


def test_fusion_adds_weighted_fields() -> None:
    single = orientation_field(PICTURE)
    assert np.allclose(fused([(PICTURE, 1.0), (PICTURE, 0.7)]), 1.7 * single, atol=1e-4)


def test_finer_field_is_that_of_the_coarser_picture() -> None:
    fine = picture_of(NoiseEarth(), Frame.upright(10, 20, 900), 128).transpose(2, 0, 1).astype(np.float32)
    field = orientation_field(fine, step=2)
    between = (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2])[6:-6, 6:-6]
    assert likeness(between, orientation_field(PICTURE)[6:-6, 6:-6]) > 0.95
