"""Alignment on fields whose true warp is known."""

import numpy as np
import pytest
from noise_earth import NoiseEarth, picture_of

from retrieval.registration.align import Poses, posed, score_of, warped
from retrieval.registration.canvases import Cell, drawn_field
from retrieval.registration.fields import fused
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.templates import Query

EARTH = NoiseEarth()
CELL = Cell(8, 20.0, 10.0)
PX = 32


@pytest.mark.parametrize(("factor", "heading"), [(0.92, 130.0), (1.0, -90.0), (1.08, 5.0)])
def test_poses_come_to_lie_right(factor: float, heading: float) -> None:
    truth = Frame.upright(CELL.lng, CELL.lat, CELL.edge_km * factor, heading)
    query = Query(picture_of(EARTH, truth))
    canvas = drawn_field(EARTH, CELL, PX)[None]
    starts = np.exp(1j * np.radians(heading + np.array([-6.0, 0.0, 6.0])))
    poses = Poses(np.array([0.04, -0.03j, 0.02 + 0.02j], np.complex64), starts.astype(np.complex64))
    found, scores = posed(query.target(PX), canvas, np.zeros(3, dtype=np.intp), poses, 8)
    assert np.abs(found.centre).max() < 0.4 / PX
    assert np.abs(found.turn - factor * np.exp(1j * np.radians(heading))).max() < 0.02
    assert scores.min() > 0.8


def test_scores_never_fall() -> None:
    query = Query(picture_of(EARTH, Frame.upright(-70, 30, 500)))  # of another place
    canvas = drawn_field(EARTH, CELL, PX)[None]
    rng = np.random.default_rng(0)
    poses = Poses(
        rng.normal(0, 0.5, 200).astype(np.complex64), np.exp(1j * rng.uniform(0, 6, 200)).astype(np.complex64)
    )
    which = np.zeros(200, dtype=np.intp)
    before, after = (posed(query.target(PX), canvas, which, poses, steps)[1] for steps in (0, 5))
    assert (after >= before - 1e-6).all()
    assert after.mean() > before.mean()


@pytest.mark.parametrize("tilt", [False, True])
def test_drawn_reference_is_warped_onto_the_picture(tilt: bool) -> None:
    truth = Frame.upright(20, 10, 700, 30)
    target, margin = Query(picture_of(EARTH, truth)).target(64), 10
    off = Frame.upright(20.2, 9.9, 690, 33)
    channels = EARTH.layers(*off.ground(*pixel_centres(64, margin)), 11.0)
    drawn = fused(channels)
    warp, score = warped(target, drawn, margin, tilt, 8)
    assert score > score_of(target, drawn[margin:-margin, margin:-margin]) + 0.1
    found = off.warped(warp)
    assert found.lng == pytest.approx(20, abs=0.05)
    assert found.heading == pytest.approx(30, abs=1)
