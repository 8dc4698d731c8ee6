"""A query resolved against one index: everything that the search and the answer need, looked up once.

`Locator.plan` makes a plan; the pipeline, the beam and the answer read it. It knows nothing of pictures or HTTP.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from retrieval.encoders.base import EncodesPhotos
from retrieval.index.calibration import Calibration
from retrieval.priors.base import Prior
from retrieval.search.deadline import NO_DEADLINE, Deadline
from retrieval.search.options import DEFAULT_K, MAX_ALTERNATIVES, Register, Scoring
from retrieval.search.query import Constraint

__all__ = ["InstalledPrior", "SearchPlan"]

_EXPENSIVE = 10_000
"""Corners of a region times `k` above which a search takes several times as long as one without a region. A tile costs
as much as `_TILE_CORNERS` corners however simple the region is."""
_TILE_CORNERS = 50


@dataclass(frozen=True)
class InstalledPrior:
    """An open prior with the calibration to use with it.

    `fitted`: the calibration was fitted with this prior; otherwise it is the index's own with lambda 1 at every zoom.
    """

    name: str
    prior: Prior = field(hash=False)
    calibration: Calibration = field(hash=False)  # a mapping of zooms, which has no hash
    fitted: bool

    @classmethod
    def of(
        cls, name: str, prior: Prior, plain: Calibration, zooms: Iterable[int], own: Calibration
    ) -> "InstalledPrior":
        """Choose between `own`, the calibration file of this prior, and `plain`, the index's.

        `own` is used only if it was fitted with the same version of the prior.
        """
        fitted_with = own.extra.get("prior") or {}
        if fitted_with.get("fingerprint") == prior.fingerprint:
            return cls(name, prior, own, True)
        return cls(name, prior, plain.unfitted_with_prior(zooms), False)

    @property
    def calibration_id(self) -> str | None:
        """The id of the calibration that was fitted with this prior; None if none was."""
        return self.calibration.id if self.fitted else None


@dataclass(frozen=True)
class SearchPlan:
    """A resolved query. Two plans of one locator are equal if their pictures can be searched together.

    `calibration` holds the numbers to search with: the prior's where there is a prior, else the index's.
    `prior_only`: return the prior's own answer without searching. `register`: `off` also where `auto` found that the
    index cannot, for the reason `unregistered`. `deadline`: when the search is ended.
    """

    calibration: Calibration = field(compare=False)  # determined by the locator and the prior
    k: int = DEFAULT_K
    scoring: Scoring = "posterior"
    constraint: Constraint | None = None
    prior: InstalledPrior | None = None
    prior_only: bool = False
    alternatives: int = 0
    trace: bool = False
    register: Register = "off"
    width_km: float | None = None
    heading: float | None = None
    unregistered: str | None = None
    deadline: Deadline = field(default=NO_DEADLINE, compare=False)

    @property
    def is_expensive(self) -> bool:
        """Whether the search takes much longer than most: a region is compared with every candidate, up to 16 k."""
        region = None if self.constraint is None else self.constraint.region
        return region is not None and (region.corners + _TILE_CORNERS) * self.k > _EXPENSIVE

    @property
    def places(self) -> int:
        """How many places the search returns: the answer and its alternatives, which are registration's candidates."""
        return 1 + (self.alternatives if self.register == "off" else MAX_ALTERNATIVES)

    @property
    def prior_encoder(self) -> EncodesPhotos | None:
        """The prior's own photo encoder; None if there is no prior, or if it uses the index's embeddings."""
        return None if self.prior is None else self.prior.prior.encoder
