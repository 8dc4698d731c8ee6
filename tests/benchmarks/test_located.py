"""The road's benchmark: how pictures are turned, what is removed from a reference, and how records are judged."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.located_road import turned
from benchmarks.support.located_sets import Emptied
from benchmarks.support.located_tables import judged, markdown
from retrieval.registration.accept import Acceptance
from retrieval.registration.canvases import CanvasCache, cells_near
from retrieval.registration.fields import Layer

ACCEPTANCE = Acceptance()


class Waves:
    """A reference whose brightness follows longitude and latitude."""

    identity = "waves"

    def layers(self, lng: np.ndarray, lat: np.ndarray, pixel_km: float) -> list[Layer]:
        return [((127 + 100 * np.sin(lng * 3) * np.cos(lat * 2))[None].astype(np.float32), 1.0)]


def record(*fits: dict[str, float] | None, place: str = "turned", style: str = "bmng") -> dict[str, Any]:
    stages = [{"name": f"stage {i}", "cpu_ms": 10.0, "fit": fit} for i, fit in enumerate(fits)]
    levels = {z: [0.5, True] for z in "468"}
    return {
        "set": place,
        "style": style,
        "has_place": place != "nowhere",
        "truth": {"edge_km": 400.0},
        "retrieval": {"km": 900.0, "levels": levels, "cpu_ms": 1.0, "turned_cpu_ms": 2.0},
        "recall": {"upright": False, "turned": True},
        "stages": stages,
    }


def fit(margin: float, km: float) -> dict[str, float]:
    return {"score": 0.5, "margin": margin, "energy": 1.0, "log_confidence": -3.0, "log_jobs": 8.0, "km": km}


def test_a_picture_whose_top_points_east_is_turned_until_north_is_up() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:16] = 255  # the east
    upright = np.asarray(turned(Image.fromarray(pixels), 90.0))
    assert upright.shape == (64, 64, 3)
    assert upright[8:-8, -8:].min() == 255
    assert upright[:, :40].max() == 0


@pytest.mark.parametrize("heading", [45.0, 100.0, 225.0])
def test_turned_pictures_hold_no_corners(heading: float) -> None:
    assert np.asarray(turned(Image.new("RGB", (128, 128), "white"), heading)).min() == 255


def test_only_canvases_that_reach_the_removed_circle_are_drawn_anew() -> None:
    warm = CanvasCache(Waves())
    far, near = cells_near(5, 60.0, 10.0, 1.0)[0], cells_near(5, 0.0, 10.0, 1.0)[0]
    emptied = Emptied(warm, 0.0, 10.0, 300.0)
    assert emptied.canvas(far, 16) is warm.canvas(far, 16)
    assert not np.allclose(emptied.canvas(near, 16).spectra, warm.canvas(near, 16).spectra)


def test_the_first_accepted_stage_is_the_answer() -> None:
    answer = judged(record(fit(0.0, 800.0), fit(0.3, 5.0), fit(0.3, 2.0)), ACCEPTANCE)
    assert (answer.stage, answer.km, answer.cpu_ms, answer.is_right) == ("stage 1", 5.0, 20.0, True)


def test_without_an_accepted_stage_the_answer_is_that_of_retrieval() -> None:
    answer = judged(record(fit(0.0, 5.0), None), ACCEPTANCE)
    assert (answer.stage, answer.km, answer.is_right) == (None, 900.0, False)


def test_no_place_is_right_once_it_is_removed() -> None:
    assert not judged(record(fit(0.3, 5.0), place="removed"), ACCEPTANCE).is_right


def test_a_picture_is_judged_by_coefficients_from_other_styles() -> None:
    right, wrong = fit(0.3, 5.0), fit(0.0, 800.0)
    others = [record(right, wrong, style="etopo") for _ in range(20)]
    # Were its own style among the examples, the fit would learn from them that large margins are wrong.
    own = [record(fit(0.3, 800.0), fit(0.0, 5.0)) for _ in range(400)]
    table = markdown([record(right)], [*others, *own])
    assert "| turned | bmng | 1 | 0.00 | 0.00 | 900 | 1.00" in table
