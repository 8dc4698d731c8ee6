"""What a prior is to the search, and the file that names a prior's kind.

For each picture a prior gives a belief, which gives every tile of the Earth a probability. Latitudes beyond Web
Mercator's 85.05 degrees belong to no tile: a belief is normalised over the Mercator square.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import PriorError
from retrieval.files import read_json, write_json
from tile_cache.addressing import LngLat

__all__ = ["PRIOR_NAME", "Belief", "Prior", "read_kind", "write_kind"]

PRIOR_NAME = "prior.json"
_FORMAT, _FORMAT_VERSION = "tilebeam-prior", 1


class Belief(Protocol):
    """A probability over the Earth for one picture. Sums to 1 over all tiles of a zoom; children sum to their parent.

    A soft belief gives every tile some mass (`grid.FLOOR`), so it can be outvoted. A tile without mass is removed from
    the search.
    """

    def log_mass(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.float32]:
        """Morton codes at a zoom, (n,), to the natural logs of their tiles' probabilities, (n,); -inf for 0.

        The search calls it once a level with all candidates, so its cost should grow with n and not with the Earth.
        """
        ...

    def best(self) -> LngLat:
        """The place that the prior would answer with on its own, degrees."""
        ...


class Prior(Protocol):
    """Pictures to beliefs.

    `fingerprint` identifies weights, gallery and partition; a calibration is for one fingerprint.
    """

    name: str
    fingerprint: str

    @property
    def encoder(self) -> EncodesPhotos | None:
        """The encoder of the features. None: they are the index's own photo embeddings, or are ignored."""
        ...

    def beliefs(self, features: NDArray[np.float32]) -> Sequence[Belief]:
        """(n, f) features to one belief for each picture."""
        ...


def write_kind(directory: Path, kind: str, more: dict[str, Any] | None = None) -> None:
    """Write `prior.json`, the last file of a prior's directory; `more`: further entries, such as settings."""
    write_json(directory / PRIOR_NAME, {"format": _FORMAT, "version": _FORMAT_VERSION, "kind": kind} | (more or {}))


def read_kind(directory: Path, kinds: Sequence[str]) -> str:
    """The kind that a directory's `prior.json` names, which must be one of `kinds`. Raises PriorError."""
    path = directory / PRIOR_NAME
    if not path.exists():
        raise PriorError(f"no prior at {directory} (no {PRIOR_NAME}): give a directory that `geocells train` made")
    try:
        data = read_json(path, inside=directory)
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        if data.get("version") != _FORMAT_VERSION:
            raise ValueError(f"format version {data.get('version')!r}, this program reads {_FORMAT_VERSION}")
        if data["kind"] not in kinds:
            raise ValueError(f"unknown kind {data['kind']!r}: use {', '.join(kinds)}")
        return str(data["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise PriorError(f"{path} cannot be used ({exc}): copy or make the prior again") from exc
