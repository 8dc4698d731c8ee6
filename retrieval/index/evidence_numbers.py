"""The calibration's numbers for registration and for an answer's outcome. They are optional parts of calibration.json.

`retrieval.search.evidence` uses them. It knows nothing of pictures, and of acceptance only the names of its numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from retrieval.errors import CalibrationError

__all__ = ["DEFAULT_ERRORS", "OutcomeNumbers", "RegistrationNumbers", "TrustNumbers"]

_MOST = 1e6
_MOST_ERROR = 10.0
_MAX_QUANTILES = 256
_TYPICAL_SHARE = 0.0068


def _rayleigh(count: int) -> tuple[float, ...]:
    """The middle quantiles of Rayleigh's distribution: of a distance whose two components are normal."""
    return tuple(_TYPICAL_SHARE * math.sqrt(-2 * math.log1p(-(i + 0.5) / count)) for i in range(count))


DEFAULT_ERRORS = _rayleigh(16)
"""For calibrations without quantiles: half of the accepted places are right within 0.8% of the footprint's edge."""


@dataclass(frozen=True)
class TrustNumbers:
    """A logistic: how far retrieval is to be believed about a picture whose registration was not accepted.

    `score`, `margin`, `energy`: weights of the registration's features, 0 where nothing fits. `confidence`: of
    retrieval's confidence at the first zoom. `elsewhere`: of its elsewhere.
    """

    intercept: float
    score: float = 0.0
    margin: float = 0.0
    energy: float = 0.0
    confidence: float = 0.0
    elsewhere: float = 0.0

    def trust(self, score: float, margin: float, energy: float, confidence: float, elsewhere: float) -> float:
        """The probability, 0 to 1, that what retrieval says holds as it stands. Features are held within bounds."""
        log_odds = (
            self.intercept
            + self.score * min(max(score, 0.0), 1.0)
            + self.margin * min(max(margin, 0.0), 0.3)
            + self.energy * min(max(energy, 0.0), 3.0)
            + self.confidence * confidence
            + self.elsewhere * elsewhere
        )
        return 1 / (1 + math.exp(-min(max(log_odds, -40.0), 40.0)))


@dataclass(frozen=True)
class RegistrationNumbers:
    """How registrations count.

    `acceptance`: the numbers of `retrieval.registration.accept.Acceptance`, which checks their names; None for the
    built-in ones. `trust`: None believes retrieval whole.
    `error_quantiles`: of the distance between an accepted place and the true one, in edges of the footprint, ascending:
    n of them stand for the n-ths of accepted pictures. None: the default ones.
    """

    acceptance: Mapping[str, float] | None = None
    trust: TrustNumbers | None = None
    error_quantiles: tuple[float, ...] | None = None

    @property
    def errors(self) -> tuple[float, ...]:
        """The quantiles to use."""
        return self.error_quantiles or DEFAULT_ERRORS

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        parts: dict[str, Any] = {}
        if self.error_quantiles is not None:
            parts["error_quantiles"] = [float(value) for value in self.error_quantiles]
        if self.acceptance is not None:
            parts["acceptance"] = {name: float(value) for name, value in self.acceptance.items()}
        if self.trust is not None:
            parts["trust"] = {field.name: float(getattr(self.trust, field.name)) for field in fields(self.trust)}
        return parts

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RegistrationNumbers":
        """The inverse of `to_json`; a part that is missing has its default. Raises CalibrationError."""
        _check_names("registration", data, {"acceptance", "trust", "error_quantiles"}, required=False)
        acceptance, trust = data.get("acceptance"), data.get("trust")
        if acceptance is not None:
            if not isinstance(acceptance, Mapping):
                raise CalibrationError(f"acceptance is {acceptance!r:.60}: an object is expected")
            acceptance = {str(n): _number(f"the acceptance's {n!s:.40}", v) for n, v in acceptance.items()}
            if not 0 < acceptance.get("threshold", 0.5) < 1:
                raise CalibrationError(f"the acceptance's threshold is {acceptance['threshold']}: it must be in (0, 1)")
        if trust is not None:
            trust = TrustNumbers(**_numbers("trust", trust, {field.name for field in fields(TrustNumbers)}))
        quantiles = data.get("error_quantiles")
        return cls(acceptance, trust, None if quantiles is None else _quantiles(quantiles))


@dataclass(frozen=True)
class OutcomeNumbers:
    """From what on an answer is `elsewhere` or `located`.

    `elsewhere`: from this probability of elsewhere on, it is elsewhere. `located`: a place that was not registered is
    located if the covered area has at least this probability, and if the 90% circle has at most `radius_km`.
    """

    located: float = 0.9
    elsewhere: float = 0.5
    radius_km: float = 250.0

    def to_json(self) -> dict[str, float]:
        """As the file holds it."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "OutcomeNumbers":
        """The inverse of `to_json`. Raises CalibrationError."""
        values = _numbers("outcome", data, {field.name for field in fields(cls)})
        for name, value in values.items():
            if not 0 <= value <= (_MOST if name == "radius_km" else 1):
                raise CalibrationError(f"the outcome's {name} is {value}: it is out of range")
        return cls(**values)


def _check_names(part: str, data: Any, names: set[str], *, required: bool) -> None:
    if not isinstance(data, Mapping):
        raise CalibrationError(f"{part} is {data!r:.60}: an object is expected")
    if wrong := set(data) - names:
        raise CalibrationError(f"{part} names {min(wrong)!r:.60}: {', '.join(sorted(names))} are expected")
    if required and (missing := names - set(data)):
        raise CalibrationError(f"{part} has no {min(missing)}")


def _numbers(part: str, data: Any, names: set[str]) -> dict[str, float]:
    _check_names(part, data, names, required=True)
    return {name: _number(f"the {part}'s {name}", value) for name, value in data.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > _MOST:
        raise CalibrationError(f"{name} is {value!r:.60}: a number within {_MOST:g} is expected")
    return float(value)


def _quantiles(data: Any) -> tuple[float, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str) or not 1 <= len(data) <= _MAX_QUANTILES:
        raise CalibrationError(f"error_quantiles are {data!r:.60}: a list of 1 to {_MAX_QUANTILES} numbers is expected")
    values = tuple(_number("an error quantile", value) for value in data)
    if any(b < a for a, b in zip((0.0, *values), values, strict=False)):
        raise CalibrationError(f"error_quantiles are {values!s:.60}: they must ascend from 0")
    if values[-1] > _MOST_ERROR:
        raise CalibrationError(f"error_quantiles end at {values[-1]:g}: at most {_MOST_ERROR} edges are expected")
    return values
