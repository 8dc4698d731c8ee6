"""The road's benchmark: what is removed from a reference, how records are judged, and what is fitted on them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from benchmarks.support.located_answers import Answered, added_ms
from benchmarks.support.located_fit import error_quantiles, fitted_acceptance, fitted_trust, numbers_for
from benchmarks.support.located_records import accepted_stage, figures_of, is_right
from benchmarks.support.located_sets import Emptied
from benchmarks.support.located_tables import markdown
from retrieval.registration.accept import Acceptance, Features
from retrieval.registration.canvases import CanvasCache, cells_near
from retrieval.registration.fields import Layer
from tile_cache.addressing import tile_at

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


def fit(margin: float, km: float) -> dict[str, Any]:
    return asdict(Features(0.5, margin, 1.0, -3.0, 8.0, 0.02, 6.0)) | {"km": km, "edge_km": 400.0}


def test_only_canvases_that_reach_the_removed_circle_are_drawn_anew() -> None:
    warm = CanvasCache(Waves())
    far, near = cells_near(5, 60.0, 10.0, 1.0)[0], cells_near(5, 0.0, 10.0, 1.0)[0]
    emptied = Emptied(warm, 0.0, 10.0, 300.0)
    assert emptied.canvas(far, 16) is warm.canvas(far, 16)
    assert not np.allclose(emptied.canvas(near, 16).spectra, warm.canvas(near, 16).spectra)


def answered(each: dict[str, Any], **changes: Any) -> Answered:
    retrieval = each["retrieval"]
    figures = {name: retrieval[name] for name in ("km", "levels", "elsewhere", "radius_90_km")}
    plain = {"stage": None, "cpu_ms": 10.0, "last_probability": 0.5, "outcome": "uncertain"}
    return Answered(each, **(plain | figures | changes))


def test_the_first_accepted_stage_counts() -> None:
    each = record(fit(0.0, 800.0), fit(0.3, 5.0), fit(0.3, 2.0))
    stage = accepted_stage(each, ACCEPTANCE)
    assert stage is not None
    assert stage["name"] == "stage 1"
    assert added_ms(each, stage) == 20.0
    assert accepted_stage(record(fit(0.0, 5.0), None), ACCEPTANCE) is None


def test_no_place_is_right_once_it_is_removed() -> None:
    assert is_right(record(), 5.0)
    assert not is_right(record(name="removed"), 5.0)


def test_an_answer_is_compared_with_the_truth_at_every_zoom() -> None:
    tiles = [tile_at(8.0, 46.0, zoom) for zoom in (4, 6)]
    levels = [{"zoom": t.z, "tile": {"x": t.x, "y": t.y}, "confidence": 0.5} for t in tiles]
    answer = {"lon": 8.0, "lat": 46.0, "levels": levels, "elsewhere": 0.1, "radius_km": {"90": 300.0}}
    figures = figures_of(answer, {"lng": 10.0, "lat": 46.0})
    assert figures["levels"] == {"4": [0.5, True], "6": [0.5, tile_at(10.0, 46.0, 6) == tiles[1]]}
    assert figures["km"] == pytest.approx(154.5, abs=0.5)
    assert figures_of(answer, None)["levels"] == {"4": [0.5, False], "6": [0.5, False]}


def examples(style: str, n: int = 30) -> list[dict[str, Any]]:
    """Right fits with large margins, wrong ones with small ones, and some without their place."""
    right = [record(fit(0.2 + 0.001 * i, 4.0 + 0.1 * i), style=style) for i in range(n)]
    wrong = [record(fit(0.001 * i, 800.0), style=style, said=0.6, right=i % 4 == 0) for i in range(n)]
    gone = [record(fit(0.001 * i, 800.0), style=style, name="removed", said=0.6, right=i % 4 == 0) for i in range(n)]
    return [*right, *wrong, *gone]


def test_a_picture_is_judged_by_numbers_from_other_styles() -> None:
    # Were its own style among the examples, the fit would learn from them that large margins are wrong.
    own = [record(fit(0.3, 800.0)) for _ in range(40)]
    numbers = numbers_for([*examples("etopo"), *examples("relief"), *examples("tinted"), *own])
    each = record(fit(0.3, 5.0))
    others, mixed = (Acceptance.from_json(numbers(style).acceptance or {}) for style in ("bmng", "etopo"))
    assert accepted_stage(each, others) is not None
    assert accepted_stage(each, mixed) is None


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
    right = answered(record(fit(0.3, 5.0)), stage="stage 0", km=5.0)
    lost = [answered(record(fit(0.0, 5.0), name="removed")), answered(record(None, name="nowhere"))]
    text = markdown([right, *lost])
    assert "| turned | bmng | 1 | 0.00 |" in text
    assert "| removed | all | 1 | 0.00" in text
    assert "| nowhere | all | 1 | 0.00" in text
