"""The calibration's numbers for registration and outcome: round trips, and names and values that are refused."""

from dataclasses import fields
from pathlib import Path

import pytest

from retrieval.errors import CalibrationError
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.evidence_numbers import OutcomeNumbers, RegistrationNumbers, TrustNumbers
from retrieval.registrar import acceptance_of
from retrieval.registration.accept import BUILT_IN, Acceptance

TRUST = TrustNumbers(1.0, 2.0, 3.0, 0.5, -1.0, -2.0)
NUMBERS = RegistrationNumbers(BUILT_IN.to_json(), TRUST, (0.001, 0.01, 0.2))


def test_numbers_come_back_from_the_file(tmp_path: Path) -> None:
    outcomes = OutcomeNumbers(0.8, 0.4, 100)
    for registration, outcome in ((NUMBERS, outcomes), (None, None), (RegistrationNumbers(), None)):
        calibration = Calibration({4: ZoomNumbers()}, k=64, registration=registration, outcome=outcome)
        calibration.write(tmp_path)
        again = Calibration.read(tmp_path)
        assert (again, again.id) == (calibration, calibration.id)
    assert acceptance_of(again) == BUILT_IN


def test_a_file_without_the_parts_has_the_same_id_as_before() -> None:
    assert "registration" not in Calibration({4: ZoomNumbers()})._content()
    assert Calibration().outcome_numbers == OutcomeNumbers()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"acceptence": {}}, "acceptence"),
        ({"acceptance": [1]}, "an object is expected"),
        ({"acceptance": {"score": float("nan")}}, "score"),
        ({"acceptance": {"threshold": 1.5}}, r"\(0, 1\)"),
        ({"trust": {"intercept": 1.0}}, "trust has no confidence"),
        ({"trust": {f.name: 0.0 for f in fields(TrustNumbers)} | {"luck": 1.0}}, "luck"),
        ({"trust": {f.name: 0.0 for f in fields(TrustNumbers)} | {"score": "1"}}, "score is '1'"),
        ({"error_quantiles": []}, "1 to 256"),
        ({"error_quantiles": [0.2, 0.1]}, "ascend"),
        ({"error_quantiles": [-0.1]}, "ascend"),
        ({"error_quantiles": [True]}, "True"),
        ({"error_quantiles": [0.1, 1e5]}, "end at 100000"),
    ],
)
def test_wrong_numbers_are_named(part: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        RegistrationNumbers.from_json(part)


@pytest.mark.parametrize("part", [{"located": 2.0}, {"elsewhere": -0.1}, {"radius_km": -1.0}, {"found": 0.5}])
def test_a_wrong_outcome_is_named(part: dict) -> None:
    with pytest.raises(CalibrationError, match=min(part)):
        OutcomeNumbers.from_json(OutcomeNumbers().to_json() | part)


def test_an_acceptance_of_another_version_is_refused() -> None:
    numbers = {f.name: 0.5 for f in fields(Acceptance)} | {"luck": 1.0}
    with pytest.raises(CalibrationError, match="luck"):
        acceptance_of(Calibration(registration=RegistrationNumbers(numbers)))


def test_trust_is_a_probability_within_bounds() -> None:
    assert TRUST.trust(0, 0, 0, 0, 0) == pytest.approx(0.7311, abs=1e-4)
    assert TRUST.trust(9, 9, 9, 0, 0) == TRUST.trust(1, 0.3, 3, 0, 0)
    assert TrustNumbers(1e6).trust(0, 0, 0, 0, 0) == pytest.approx(1)
