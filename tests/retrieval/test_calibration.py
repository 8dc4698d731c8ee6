"""Calibration numbers: a file of their own, replaceable, with an id, and honest about what they fit."""

import json

import pytest

from indexer.retrieval.calibration import DEFAULT_TAU, Calibration, ZoomNumbers
from indexer.retrieval.errors import CalibrationError
from indexer.retrieval.locator import LocateQuery, Locator

HEAD = '{"format": "tilebeam-calibration", "version": 1, "id": "", '
FITTED = {z: ZoomNumbers(0.07, 0.9, -2.0, 0.0) for z in (4, 6, 8)}


def test_it_survives_its_file_with_the_keys_of_later_versions(tmp_path):
    first = Calibration(FITTED, k=64, coverage="c", photo_encoder="p", extra={"fit": {"n": 5000}})
    first.write(tmp_path)
    assert Calibration.read(tmp_path) == first
    assert json.loads((tmp_path / "calibration.json").read_text())["id"] == first.id


def test_every_number_changes_the_id():
    ids = {
        Calibration().id,
        Calibration(FITTED, 64).id,
        Calibration(FITTED, 32).id,
        Calibration(FITTED | {8: ZoomNumbers(0.07, 0.9, None)}, 64).id,
        Calibration(FITTED, 64, extra={"prior": 1}).id,
    }
    assert len(ids) == 5
    assert None in ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"format": "tilebeam-calibration", "version": 9}',
        HEAD + '"k": 1, "coverage": "", "zooms": {"4": {"tau": 0, "gamma": 1, "b": null, "lambda": 0}}}',
        HEAD + '"k": 1, "coverage": "", "zooms": {"4": {"tau": NaN, "gamma": 1, "b": null, "lambda": 0}}}',
    ],
)
def test_damage_is_refused_with_a_way_out(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(CalibrationError, match="tilebeam calibrate"):
        Calibration.read(tmp_path)


def test_an_edit_by_hand_is_noticed(tmp_path):
    Calibration(FITTED, 64).write(tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace("0.07", "0.08"))
    with pytest.raises(CalibrationError, match="by hand"):
        Calibration.read(tmp_path)


@pytest.mark.parametrize("numbers", [{"tau": 0}, {"tau": float("nan")}, {"b": float("inf")}, {"gamma": float("nan")}])
def test_numbers_that_are_none_are_refused(numbers):
    with pytest.raises(CalibrationError):
        ZoomNumbers(**numbers)


def test_only_the_fitted_k_coverage_and_encoder_answer_as_calibrated(small):
    directory, levels, photo = small
    query = levels[2].vectors[:1]
    locator = Locator.open(directory, encoder=photo)
    assert locator.calibration.numbers(4).tau == DEFAULT_TAU
    assert not locator.locate(query, LocateQuery())[0].calibrated
    coverage = locator.index.manifest.coverage_hash
    index_id = locator.describe()["id"]

    def says(calibration: Calibration, **how: object) -> bool:
        calibration.write(directory)
        opened = Locator.open(directory, encoder=photo)
        assert opened.describe()["id"] == index_id
        answer = opened.locate(query, LocateQuery(**how))[0]
        assert answer.calibration_id == calibration.id
        return answer.calibrated

    fitted = Calibration(FITTED, 64, coverage, photo.fingerprint)
    assert says(fitted)
    assert not says(fitted, k=32)
    assert not says(fitted, scoring="paper")
    assert not says(Calibration(FITTED, 64, "other", photo.fingerprint))
    assert not says(Calibration(FITTED, 64, coverage, "other"))
    assert not says(Calibration({4: FITTED[4]}, 64, coverage, photo.fingerprint))
