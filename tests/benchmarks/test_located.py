"""The road's benchmark: how pictures are turned, what is removed from a reference, and how records are judged."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.located_answers import answered
from benchmarks.support.located_fit import acceptance_for, error_quantiles, fitted_acceptance, fitted_trust
from benchmarks.support.located_road import turned
from benchmarks.support.located_sets import Emptied
from benchmarks.support.located_tables import markdown
from retrieval.registration.accept import Acceptance
from retrieval.registration.canvases import CanvasCache, cells_near
from retrieval.registration.fields import Layer

ACCEPTANCE = Acceptance()


class Waves:
    """A reference whose brightness follows longitude and latitude."""

    identity = "waves"

    def layers(self, lng: np.ndarray, lat: np.ndarray, pixel_km: float) -> list[Layer]:
        return [((127 + 100 * np.sin(lng * 3) * np.cos(lat * 2))[None].astype(np.float32), 1.0)]


def record(
    *fits: dict[str, float] | None, name: str = "turned", style: str = "bmng", said: float = 0.5, right: bool = True
) -> dict[str, Any]:
    stages = [{"name": f"stage {i}", "cpu_ms": 10.0, "fit": fit} for i, fit in enumerate(fits)]
    retrieval = {"km": 900.0, "levels": {z: [said, right] for z in "468"}, "elsewhere": 0.1, "radius_90_km": 1000.0}
    return {
        "set": name,
        "style": style,
        "has_place": name != "nowhere",
        "truth": {"edge_km": 400.0},
        "retrieval": retrieval | {"cpu_ms": 1.0, "turned_cpu_ms": 2.0},
        "recall": {"upright": False, "turned": True},
        "stages": stages,
    }


def fit(margin: float, km: float) -> dict[str, float]:
    return {
        "score": 0.5,
        "margin": margin,
        "energy": 1.0,
        "log_confidence": -3.0,
        "log_jobs": 8.0,
        "residual": 0.02,
        "km": km,
    } | {"edge_km": 400.0}


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
    answer = answered(record(fit(0.0, 800.0), fit(0.3, 5.0), fit(0.3, 2.0)), ACCEPTANCE)
    assert (answer.stage, answer.km, answer.cpu_ms, answer.is_right) == ("stage 1", 5.0, 20.0, True)


def test_without_an_accepted_stage_the_answer_is_that_of_retrieval() -> None:
    answer = answered(record(fit(0.0, 5.0), None), ACCEPTANCE)
    assert (answer.stage, answer.km, answer.is_right, answer.is_inside) == (None, 900.0, False, True)


def test_no_place_is_right_once_it_is_removed() -> None:
    assert not answered(record(fit(0.3, 5.0), name="removed"), ACCEPTANCE).is_right


def examples(style: str, n: int = 30) -> list[dict[str, Any]]:
    """Right fits with large margins, wrong ones with small ones, and some without their place."""
    right = [record(fit(0.2 + 0.001 * i, 4.0 + 0.1 * i), style=style) for i in range(n)]
    wrong = [record(fit(0.001 * i, 800.0), style=style, said=0.6, right=i % 4 == 0) for i in range(n)]
    gone = [record(fit(0.001 * i, 800.0), style=style, name="removed", said=0.6, right=i % 4 == 0) for i in range(n)]
    return [*right, *wrong, *gone]


def test_a_picture_is_judged_by_coefficients_from_other_styles() -> None:
    # Were its own style among the examples, the fit would learn from them that large margins are wrong.
    own = [record(fit(0.3, 800.0)) for _ in range(400)]
    acceptance = acceptance_for([*examples("etopo"), *examples("relief"), *examples("tinted"), *own])
    assert answered(record(fit(0.3, 5.0)), acceptance("bmng")).stage == "stage 0"
    assert answered(record(fit(0.3, 5.0)), acceptance("etopo")).stage is None


def test_the_threshold_rises_until_pictures_without_their_place_are_refused() -> None:
    clean = [*examples("etopo"), *examples("relief")]
    gone = [record(fit(0.2, 800.0), name="removed", style=style) for style in ("etopo", "relief") for _ in range(5)]
    assert fitted_acceptance([*clean, *gone]).threshold > fitted_acceptance(clean).threshold


def test_trust_makes_confidences_right_where_nothing_is_accepted() -> None:
    records = examples("etopo")
    trust = fitted_trust(records, lambda _: ACCEPTANCE)
    names = {"score": 0.5, "margin": 0.01, "energy": 1.0, "confidence": 0.6, "elsewhere": 0.1}
    odds = trust["intercept"] + sum(trust[name] * value for name, value in names.items())
    assert 0.6 / (1 + np.exp(-odds)) == pytest.approx(0.27, abs=0.05)  # 8 of 30 are right


def test_error_quantiles_come_from_right_accepted_places() -> None:
    quantiles = error_quantiles([*examples("etopo"), record(fit(0.3, 900.0))], lambda _: ACCEPTANCE)
    assert quantiles == sorted(quantiles)
    assert quantiles[0] > 4.0 / 400 - 1e-9
    assert quantiles[-1] < 7.0 / 400


def test_tables_name_every_set() -> None:
    records = [record(fit(0.3, 5.0)), record(fit(0.0, 5.0), name="removed"), record(None, name="nowhere")]
    text = markdown([answered(each, ACCEPTANCE) for each in records])
    assert "| turned | bmng | 1 | 0.00 |" in text
    assert "| removed | all | 1 | 0.00" in text
    assert "| nowhere | all | 1 | 0.00" in text
