"""The calibration: per zoom, the numbers that turn similarities into probabilities, and the file that holds them.

`calibration.json` lies in the index directory and can be replaced without touching a vector; its id is the SHA-256 of
its content. Each prior has numbers of its own, in `calibration-<prior>.json`. Keys that this version does not know are
kept. `indexer.calibration` fits the numbers; docs/method.md has the formulas and a glossary of the symbols.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.errors import CalibrationError, damage_as
from retrieval.files import read_json, write_json
from retrieval.index.evidence_numbers import OutcomeNumbers, RegistrationNumbers
from tile_cache.addressing import MAX_ZOOM

FORMAT = "tilebeam-calibration"
FORMAT_VERSION = 2
CALIBRATION_NAME = "calibration.json"
DEFAULT_TAU = 0.01
"""The temperature of CLIP's logits, 1 / 100, which ViT-B-32 was trained to."""

_MOST = 1e6
"""The largest number of a calibration, and the inverse of the smallest temperature: beyond it, sums overflow."""
_WAY_OUT = "run `tilebeam calibrate`, or delete it (answers are then uncalibrated)"
_DAMAGE = (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError, CalibrationError)


@dataclass(frozen=True)
class ZoomNumbers:
    """One zoom's numbers; for the formula see `retrieval.search.posterior.share`.

    `tau`: temperature of the cosine. `gamma`: weight of the parent's mass. `b`: log weight of "none of these
    candidates"; None excludes it. `lam` (lambda): weight of the prior's gain from parent to child. `kappa`: weight of
    the neighbours' mean cosine in a tile's score, 0 to 1. `rho`: dissimilarity of the nested logit; 1 is a plain
    softmax.
    """

    tau: float = DEFAULT_TAU
    gamma: float = 1.0
    b: float | None = None
    lam: float = 0.0
    kappa: float = 0.0
    rho: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise CalibrationError(f"tau is {self.tau}: it must be a positive number")
        if self.lam < 0:
            raise CalibrationError(f"lambda is {self.lam}: the weight of a prior must be 0 or more")
        if not all(math.isfinite(v) for v in (self.gamma, self.lam, self.rho, self.b or 0.0)):
            raise CalibrationError(
                f"gamma {self.gamma}, lambda {self.lam}, rho {self.rho} and b {self.b} must be finite"
            )
        if not 0 <= self.kappa <= 1:
            raise CalibrationError(f"kappa is {self.kappa}: it must lie between 0 and 1")
        if max(map(abs, (self.tau, 1 / self.tau, self.gamma, self.lam, self.rho, self.b or 0.0))) > _MOST:
            raise CalibrationError(f"a number is beyond {_MOST:g}, or tau below its inverse: {self}")

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        plain = {"tau": self.tau, "gamma": self.gamma, "b": self.b, "lambda": self.lam}
        return plain | {"kappa": self.kappa, "rho": self.rho}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ZoomNumbers":
        """The inverse of `to_json`."""
        b = data["b"]
        return cls(
            tau=float(data["tau"]),
            gamma=float(data["gamma"]),
            b=None if b is None else float(b),
            lam=float(data["lambda"]),
            kappa=float(data["kappa"]),
            rho=float(data["rho"]),
        )


DEFAULT_NUMBERS = ZoomNumbers()


def name_for(prior: str | None) -> str:
    """The name of the calibration file: `calibration.json`, or `calibration-<prior>.json`."""
    return CALIBRATION_NAME if prior is None else f"calibration-{prior}.json"


class Feature(NamedTuple):
    """A feature of elsewhere's log odds: weight * z, where z = (value - mean) / scale is clipped to +-`CLIP`."""

    mean: float
    scale: float
    weight: float


@dataclass(frozen=True)
class ElsewhereNumbers:
    """A logistic model of elsewhere over features of a whole descent; see `retrieval.search.elsewhere`.

    The log odds are `bias` plus the features' terms. A feature that is missing, because the descent ended early, adds
    nothing.
    """

    bias: float
    features: Mapping[str, Feature]

    def __post_init__(self) -> None:
        values = [self.bias, *(v for feature in self.features.values() for v in feature)]
        if not all(math.isfinite(v) for v in values) or any(f.scale <= 0 for f in self.features.values()):
            raise CalibrationError("the model of elsewhere must have finite numbers and positive scales")
        if any(abs(v) > _MOST for v in values) or any(f.scale < 1 / _MOST for f in self.features.values()):
            raise CalibrationError(
                f"a number of the model of elsewhere is beyond {_MOST:g}, or a scale below its inverse"
            )

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {"bias": self.bias, "features": {name: list(feature) for name, feature in self.features.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ElsewhereNumbers":
        """The inverse of `to_json`."""
        features = {str(name): Feature(*(float(v) for v in values)) for name, values in data["features"].items()}
        return cls(float(data["bias"]), features)


@dataclass(frozen=True)
class Calibration:
    """Numbers per zoom, and the conditions that they were fitted under.

    The conditions are the beam width `k`, `coverage` (`Manifest.coverage_hash`) and the photo encoder's fingerprint.
    `elsewhere` is None if no out-of-scope pictures were used, `registration` if nothing was fitted to registrations;
    `outcome` has the thresholds of an answer's outcome, None for the default ones. `extra` holds the file's other keys.
    `Calibration()` is uncalibrated: default numbers and no id.
    """

    zooms: Mapping[int, ZoomNumbers] = field(default_factory=dict)
    k: int | None = None
    coverage: str | None = None
    photo_encoder: str | None = None
    elsewhere: ElsewhereNumbers | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    registration: RegistrationNumbers | None = None
    outcome: OutcomeNumbers | None = None

    def numbers(self, zoom: int) -> ZoomNumbers:
        """The fitted numbers of a zoom, or the default numbers."""
        return self.zooms.get(zoom, DEFAULT_NUMBERS)

    @property
    def prior(self) -> str | None:
        """The name of the prior that it was fitted with; None for none."""
        return None if self.extra.get("prior") is None else str(self.extra["prior"]["name"])

    def with_prior(self, name: str, fingerprint: str) -> "Calibration":
        """The same numbers, marked as fitted with this prior."""
        return replace(self, extra={**self.extra, "prior": {"name": name, "fingerprint": fingerprint}})

    def unfitted_with_prior(self, zooms: Iterable[int]) -> "Calibration":
        """The numbers for a prior without a calibration: lambda 1 everywhere, and answers count as uncalibrated."""
        return replace(self, zooms={z: replace(self.numbers(z), lam=1.0) for z in zooms}, k=None)

    def fits(self, k: int, zooms: Iterable[int], coverage: str, photo_encoder: str, prior: str | None = None) -> bool:
        """Whether these numbers were fitted for searches like this one.

        `k`: the beam width; `coverage`, `photo_encoder`, `prior`: the index's coverage hash and the fingerprints of the
        photo encoder and of the prior (None: no prior).
        """
        fitted_with: Mapping[str, Any] = self.extra.get("prior") or {}
        return (
            fitted_with.get("fingerprint") == prior
            and self.k == k
            and self.coverage in (None, coverage)
            and self.photo_encoder in (None, photo_encoder)
            and all(zoom in self.zooms for zoom in zooms)
        )

    @property
    def outcome_numbers(self) -> OutcomeNumbers:
        """The thresholds of an answer's outcome."""
        return self.outcome or OutcomeNumbers()

    def radius_share(self, percent: str) -> float:
        """The share of the mass that a circle must hold so that it contains `percent` ("50", "90") of the true places.

        Fitted as that quantile of the mass that is nearer than the true place; without a fit, the percentage itself.
        """
        return float(self.extra.get("radius_shares", {}).get(percent, int(percent) / 100))

    @property
    def id(self) -> str | None:
        """SHA-256 of the file's content without the id itself; None if nothing was fitted."""
        if not self.zooms:
            return None
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, directory: Path) -> None:
        """Write the file into an index directory, atomically replacing an older one."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, "id": self.id} | self._content()
        write_json(directory / name_for(self.prior), content)

    @classmethod
    def read(cls, directory: Path, prior: str | None = None) -> "Calibration":
        """Read an index's calibration, or that of one of its priors; `Calibration()` if there is no file.

        Raises CalibrationError if the file is damaged.
        """
        path = directory / name_for(prior)
        if not os.path.lexists(path):
            return cls()
        with damage_as(CalibrationError, path, _WAY_OUT):
            try:
                data = read_json(path, inside=directory)
                _check_format(data)
                calibration = cls._from_json(data)
            except _DAMAGE as exc:
                raise CalibrationError(f"{path} cannot be used ({exc}): {_WAY_OUT}") from exc
            if calibration.id != data["id"]:
                raise CalibrationError(
                    f"{path} was edited or damaged, as its id does not match its content: {_WAY_OUT}"
                )
            if calibration.prior != prior:
                raise CalibrationError(f"{path} was fitted with the prior {calibration.prior}, not {prior}: {_WAY_OUT}")
            return calibration

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> "Calibration":
        known = {"format", "version", "id", "zooms", "k", "coverage", "photo_encoder", "elsewhere"}
        known |= {"registration", "outcome"}
        zooms = {int(z): ZoomNumbers.from_json(n) for z, n in data["zooms"].items()}
        if any(not 0 <= zoom <= MAX_ZOOM for zoom in zooms):
            raise CalibrationError(f"zooms {sorted(zooms)!s:.80} do not lie between 0 and {MAX_ZOOM}")
        if data["k"] is not None and (type(data["k"]) is not int or data["k"] < 1):
            raise CalibrationError(f"k is {data['k']!r:.60}: a beam width or null is expected")
        if not all(isinstance(data.get(name), str | None) for name in ("coverage", "photo_encoder")):
            raise CalibrationError("coverage and photo_encoder must be texts or null")
        extra = {name: value for name, value in data.items() if name not in known}
        for percent, share in extra.get("radius_shares", {}).items():
            if not 0 < float(share) <= 1:
                raise CalibrationError(f"the share for the {percent}% circle is {share}: it must be in (0, 1]")
        elsewhere = None if data["elsewhere"] is None else ElsewhereNumbers.from_json(data["elsewhere"])
        registration = RegistrationNumbers.from_json(data["registration"]) if "registration" in data else None
        outcome = OutcomeNumbers.from_json(data["outcome"]) if "outcome" in data else None
        conditions = data["k"], data["coverage"], data.get("photo_encoder")
        return cls(zooms, *conditions, elsewhere, extra, registration, outcome)

    def _content(self) -> dict[str, Any]:
        zooms = {str(z): self.zooms[z].to_json() for z in sorted(self.zooms)}
        head = {"k": self.k, "coverage": self.coverage, "photo_encoder": self.photo_encoder, "zooms": zooms}
        elsewhere = None if self.elsewhere is None else self.elsewhere.to_json()
        optional = {"registration": self.registration, "outcome": self.outcome}
        tail = {name: part.to_json() for name, part in optional.items() if part is not None}
        return dict(self.extra) | head | {"elsewhere": elsewhere} | tail


def _check_format(data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CalibrationError("it is not a calibration file")
    if data.get("version") != FORMAT_VERSION:
        raise CalibrationError(f"it has format version {data.get('version')!r}, this program reads {FORMAT_VERSION}")
