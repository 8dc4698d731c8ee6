"""A prior from its directory: `prior.json` names its kind, the kind's own module reads the rest.

Modules are imported when a prior of their kind is opened, as most of them bring torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import PriorError
from retrieval.files import read_json, write_json
from retrieval.priors.base import Prior

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["FORMAT", "FORMAT_VERSION", "PRIOR_NAME", "kind_of", "kinds", "open_kind", "open_prior", "write_kind"]

FORMAT, FORMAT_VERSION = "tilebeam-prior", 1
PRIOR_NAME = "prior.json"
_KINDS = {
    "geocells": "retrieval.priors.geocells:GeocellPrior",
    "geoclip": "retrieval.priors.geoclip:GeoclipPrior",
    "density": "retrieval.priors.density:DensityPrior",
    "noise": "retrieval.priors.noise:NoisePrior",
}
_OF_FILES = ("geocells",)
"""Kinds that are nothing without what was trained."""


def kinds() -> tuple[str, ...]:
    """Of priors, those that this program knows."""
    return tuple(_KINDS)


def open_prior(directory: Path, *, device: str = "auto", photo: "EncodesPhotos | None" = None) -> Prior:
    """Open the prior that a directory holds; raises PriorError for one that is none, and what its kind raises.

    `photo`: the index's photo encoder; a prior that works on its embeddings says so by having no encoder of its own.
    """
    return open_kind(kind_of(directory), directory, device=device, photo=photo)


def open_kind(
    kind: str, directory: Path | None, *, device: str = "auto", photo: "EncodesPhotos | None" = None
) -> Prior:
    """Open a prior of a kind, from a directory or, of a kind that needs no files, without; raises as `open_prior`."""
    if kind not in _KINDS:
        raise PriorError(f"{kind!r} is neither a prior of the index nor a kind; there are {', '.join(_KINDS)}")
    if directory is None and kind in _OF_FILES:
        raise PriorError(f"the index has no prior {kind}: `tilebeam calibrate --prior {kind}=DIR` installs one")
    module, _, name = _KINDS[kind].partition(":")
    try:
        made = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        raise PriorError(f"a {kind} prior needs {exc.name}, which is not installed") from exc
    prior: Prior = made.open(directory, device=device, photo=photo)
    return prior


def kind_of(directory: Path) -> str:
    """The kind that a directory's `prior.json` names; raises PriorError."""
    path = directory / PRIOR_NAME
    if not path.is_file():
        raise PriorError(f"no prior at {directory} (no {PRIOR_NAME}): point at a directory that `geocells train` made")
    try:
        data = read_json(path)
        _check(data)
        return str(data["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise PriorError(f"{path} cannot be used ({exc}): copy or make the prior again") from exc


def write_kind(directory: Path, kind: str, about: dict[str, Any] | None = None) -> None:
    """Write `prior.json`, the last file of a prior's directory; `about`: what else it should say."""
    write_json(directory / PRIOR_NAME, {"format": FORMAT, "version": FORMAT_VERSION, "kind": kind} | (about or {}))


def _check(data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("it does not say that it is a prior")
    if data.get("version") != FORMAT_VERSION:
        raise ValueError(f"it has format version {data.get('version')!r}, this program reads {FORMAT_VERSION}")
    if data["kind"] not in _KINDS:
        raise ValueError(f"it is of kind {data['kind']!r}; there are {', '.join(_KINDS)}")
