"""The calibration file: round trip, id, damage, and the conditions under which answers are calibrated."""

import json

import pytest

from retrieval.errors import CalibrationError
from retrieval.index.calibration import DEFAULT_TAU, Calibration, ElsewhereNumbers, Feature, ZoomNumbers
from retrieval.locator import LocateQuery, Locator

FITTED = {z: ZoomNumbers(0.07, 0.9, -2.0, 0.0) for z in (4, 6, 8)}
NOWHERE = ElsewhereNumbers(-1.5, {"best_4": Feature(0.3, 0.1, -2.0), "entropy_8": Feature(1.0, 0.5, 0.25)})


@pytest.mark.parametrize("elsewhere", [None, NOWHERE])
def test_calibration_round_trips_with_unknown_keys(tmp_path, elsewhere):
    zooms = FITTED | {8: ZoomNumbers(0.02, -0.3, None, 0.0, kappa=1 / 3, rho=0.1 + 0.2)}
    first = Calibration(zooms, 64, "c", "p", elsewhere, {"fit": {"n": 5000}, "radius_shares": {"50": 0.4, "90": 1.0}})
    first.write(tmp_path)
    again = Calibration.read(tmp_path)
    assert again == first
    assert (again.radius_share("50"), again.radius_share("90")) == (0.4, 1.0)
    assert json.loads((tmp_path / "calibration.json").read_text())["id"] == first.id


def test_every_number_changes_the_id():
    ids = [
        Calibration().id,
        Calibration(FITTED, 64).id,
        Calibration(FITTED, 32).id,
        Calibration(FITTED | {8: ZoomNumbers(0.07, 0.9, None)}, 64).id,
        Calibration(FITTED | {8: ZoomNumbers(0.07, 0.9, -2.0, kappa=0.1)}, 64).id,
        Calibration(FITTED | {8: ZoomNumbers(0.07, 0.9, -2.0, rho=0.9)}, 64).id,
        Calibration(FITTED, 64, elsewhere=NOWHERE).id,
        Calibration(FITTED, 64, elsewhere=ElsewhereNumbers(-1.5, {**NOWHERE.features, "best_4": Feature(0, 1, 2)})).id,
        Calibration(FITTED, 64, extra={"prior": 1}).id,
    ]
    assert len(set(ids)) == len(ids)
    assert None in ids


def written(directory, **changes):
    """A valid file with one value replaced; `where`: the path of the value, such as ("zooms", "4", "tau")."""
    Calibration(FITTED, 64, "c", "p", NOWHERE, {"radius_shares": {"50": 0.4, "90": 0.9}}).write(directory)
    path = directory / "calibration.json"
    data = json.loads(path.read_text())
    for where, value in changes.items():
        *above, last = where.split("/")
        place = data
        for key in above:
            place = place[key]
        place[last] = value
    path.write_text(json.dumps(data))  # also writes NaN and Infinity, which JSON does not allow


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, '{"format": "tilebeam-calibration", "version": 9}'])
def test_other_files_raise_with_advice(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(CalibrationError, match="tilebeam calibrate"):
        Calibration.read(tmp_path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("zooms/4/tau", 0),
        ("zooms/4/tau", float("nan")),
        ("zooms/4/tau", 10**400),
        ("zooms/4/tau", "warm"),
        ("zooms/4/kappa", -0.1),
        ("zooms/4/kappa", 1.1),
        ("zooms/4/kappa", float("nan")),
        ("zooms/4/rho", float("inf")),
        ("zooms/4/b", [1]),
        ("zooms/4", {"tau": 0.07, "gamma": 1, "b": None, "lambda": 0}),
        ("zooms", [1]),
        ("zooms", {"four": {}}),
        ("elsewhere/bias", float("nan")),
        ("elsewhere/bias", None),
        ("elsewhere/features/best_4", [0.3, 0, -2.0]),
        ("elsewhere/features/best_4", [0.3, -0.1, -2.0]),
        ("elsewhere/features/best_4", [0.3, 0.1]),
        ("elsewhere/features/best_4", [0.3, 0.1, float("inf")]),
        ("elsewhere/features/best_4", "abc"),
        ("elsewhere/features", []),
        ("elsewhere", {}),
        ("radius_shares/90", 0),
        ("radius_shares/90", 1.5),
        ("radius_shares", 0.5),
    ],
)
def test_invalid_numbers_in_the_file_raise(tmp_path, where, value):
    """Numbers are checked before the id: the author of a file can also compute its id."""
    written(tmp_path, **{where: value})
    with pytest.raises(CalibrationError, match=r"cannot be used.*tilebeam calibrate"):
        Calibration.read(tmp_path)


def test_format_version_1_raises_with_advice(tmp_path):
    written(tmp_path, version=1)
    with pytest.raises(CalibrationError) as refused:
        Calibration.read(tmp_path)
    said = str(refused.value)
    assert str(tmp_path / "calibration.json") in said
    assert "format version 1, this program reads 2" in said
    assert said.endswith("run `tilebeam calibrate`, or delete it (answers are then uncalibrated)")


def test_edited_file_raises(tmp_path):
    Calibration(FITTED, 64).write(tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace("0.07", "0.08"))
    with pytest.raises(CalibrationError, match="was edited or damaged"):
        Calibration.read(tmp_path)


@pytest.mark.parametrize(
    "numbers",
    [
        {"tau": 0},
        {"tau": float("nan")},
        {"b": float("inf")},
        {"gamma": float("nan")},
        {"kappa": -0.01},
        {"kappa": float("nan")},
        {"rho": float("-inf")},
    ],
)
def test_invalid_numbers_raise(numbers):
    with pytest.raises(CalibrationError):
        ZoomNumbers(**numbers)


def test_answers_are_calibrated_only_under_fitted_conditions(small):
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
