"""The kinds of priors, and how to open one: by kind, or from a directory whose `prior.json` names the kind."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import PriorError, damage_as
from retrieval.priors.base import Prior, read_kind
from retrieval.priors.density import DensityPrior
from retrieval.priors.geocells import GeocellPrior
from retrieval.priors.geoclip import GeoclipPrior

__all__ = ["KINDS", "Kind", "check_kind", "kind_of", "open_kind", "open_prior"]


class Kind(NamedTuple):
    """`open` takes a directory (or None), then `device` and `photo` by name; `needs_files`: None is not allowed.

    `extra`: the extra of Tilebeam that installs the kind's packages, if the engine does not.
    """

    open: Callable[..., Prior]
    needs_files: bool
    extra: str | None = None


# The modules above use NumPy only. What needs torch is imported when a prior is opened.
KINDS: dict[str, Kind] = {
    "geocells": Kind(GeocellPrior.open, needs_files=True),
    "geoclip": Kind(GeoclipPrior.open, needs_files=False, extra="geoclip"),
    "density": Kind(DensityPrior.open, needs_files=False),
}


def open_prior(directory: Path, *, device: str = "auto", photo: EncodesPhotos | None = None) -> Prior:
    """Open the prior in a directory. Raises PriorError if it does not hold one, and the errors of its kind.

    `photo`: the index's photo encoder. A prior that works on its embeddings has no encoder of its own.
    """
    return open_kind(kind_of(directory), directory, device=device, photo=photo)


def open_kind(kind: str, directory: Path | None, *, device: str = "auto", photo: EncodesPhotos | None = None) -> Prior:
    """Open a prior of a kind; `directory` may be None if the kind needs no files. Raises as `open_prior`."""
    check_kind(kind, has_files=directory is not None)
    try:
        with damage_as(PriorError, directory or kind, "copy or make the prior again", but=(ModuleNotFoundError,)):
            return KINDS[kind].open(directory, device=device, photo=photo)
    except ModuleNotFoundError as exc:
        package = f"'tilebeam[{extra}]'" if (extra := KINDS[kind].extra) else exc.name
        raise PriorError(f"a {kind} prior needs {exc.name}, which is not installed: pip install {package}") from exc


def check_kind(kind: str, *, has_files: bool) -> None:
    """Raise PriorError for an unknown kind, or one that needs files and has none."""
    if kind not in KINDS:
        raise PriorError(f"{kind!r} is neither a prior of the index nor a kind of prior: use {', '.join(KINDS)}")
    if not has_files and KINDS[kind].needs_files:
        raise PriorError(f"the index has no prior {kind}: install one by `tilebeam calibrate --prior {kind}=DIR`")


def kind_of(directory: Path) -> str:
    """The kind of the prior in a directory. Raises PriorError if it does not hold one of a known kind."""
    return read_kind(directory, tuple(KINDS))
