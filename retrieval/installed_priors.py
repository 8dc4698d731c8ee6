"""The priors of an index: put into its directory, listed in its manifest, opened together with their calibrations.

`INDEX/priors/<name>/` holds a prior whole, so that the index can be moved. Knows files and numbers, no pictures.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import PriorError, QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import FileEntry, Manifest, file_entry
from retrieval.index.reader import TileIndex
from retrieval.priors.base import Prior, write_kind
from retrieval.priors.registry import kind_of, open_kind, open_prior
from retrieval.search.query import NO_PRIOR

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["Asked", "OpenPriors", "check_name", "install", "open_installed", "staged"]

PRIORS = "priors"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Asked:
    """A prior with the numbers to use it with. `fitted`: they were fitted with it; else lambda is 1 everywhere."""

    name: str
    prior: Prior
    calibration: Calibration
    fitted: bool

    @classmethod
    def of(cls, name: str, prior: Prior, plain: Calibration, zooms: Iterable[int], own: Calibration) -> "Asked":
        """`own`: what was read for this prior; numbers of another version of it do not count."""
        about = own.extra.get("prior") or {}
        if about.get("fingerprint") == prior.fingerprint:
            return cls(name, prior, own, True)
        return cls(name, prior, plain.unfitted_with_prior(zooms), False)

    @property
    def calibration_id(self) -> str | None:
        """None where nothing was fitted with this prior."""
        return self.calibration.id if self.fitted else None


@dataclass(frozen=True)
class OpenPriors:
    """Opened priors by name; `default`: the one that is asked where a question names none."""

    by_name: Mapping[str, Asked]
    default: str | None = None

    def asked(self, name: str | None) -> Asked | None:
        """The prior that a question names, None for none; raises QueryError for one that is not there."""
        wanted = self.default if name is None else name
        if wanted is None or wanted == NO_PRIOR:
            return None
        if wanted not in self.by_name:
            there = ", ".join([NO_PRIOR, *self.by_name])
            raise QueryError(f"prior {wanted!r} is none that this index has; there are {there}")
        return self.by_name[wanted]

    def describe(self) -> list[dict[str, Any]]:
        """For GET /index."""
        return [
            {"name": name, "fingerprint": asked.prior.fingerprint, "calibration_id": asked.calibration_id}
            for name, asked in self.by_name.items()
        ]


def open_installed(
    index: TileIndex,
    plain: Calibration,
    photo: "EncodesPhotos",
    *,
    device: str = "auto",
    names: Iterable[str] | None = None,
    default: str | None = None,
    kept: Mapping[str, Prior] | None = None,
) -> OpenPriors:
    """Open an index's priors, or those of `names`, with their calibrations.

    `default`: asked with in place of the manifest's choice; `none` for none. What is named and the index does not have
    is opened as a kind that needs no files. `kept`: priors that are open already, with this photo encoder; one is taken
    again if it is what the manifest lists. Raises PriorError, CalibrationError and what the priors' encoders raise.
    """
    listed, default = index.manifest.priors, default or index.manifest.prior
    wanted = list(listed) if names is None else list(names)
    if default not in (None, NO_PRIOR):
        wanted.append(str(default))
    found = {}
    for name in dict.fromkeys(wanted):
        prior = _still(index, name, kept) or _open(index, name, device, photo)
        found[name] = Asked.of(name, prior, plain, index.zooms, Calibration.read(index.directory, name))
    return OpenPriors(found, default)


def _still(index: TileIndex, name: str, kept: Mapping[str, Prior] | None) -> Prior | None:
    """The kept prior of this name, if it is this one; one that needs no files is what it was."""
    prior, about = (kept or {}).get(name), index.manifest.priors.get(name)
    if prior is not None and about is not None and about.get("fingerprint") != prior.fingerprint:
        return None
    return prior


def _open(index: TileIndex, name: str, device: str, photo: "EncodesPhotos") -> Prior:
    about = index.manifest.priors.get(name)
    if about is None:
        return open_kind(check_name(name), None, device=device, photo=photo)
    prior = open_prior(index.directory / PRIORS / name, device=device, photo=photo)
    if prior.fingerprint != about.get("fingerprint"):
        raise PriorError(f"{index.directory / PRIORS / name} is not what was installed: calibrate with it again")
    return prior


def check_name(name: str) -> str:
    """Return a prior's name, or raise PriorError: it becomes part of file names."""
    if name == NO_PRIOR or not _NAME.fullmatch(name):
        raise PriorError(f"{name!r} cannot name a prior: small letters, digits, - and _, and not {NO_PRIOR!r}")
    return name


@contextmanager
def staged(index: Path, name: str, source: Path | None) -> Iterator[Path]:
    """A prior's directory beside where it will lie in the index, gone at the end unless `install` has moved it.

    `source`: a directory to copy; None takes the one that the index has, or, of a kind that needs no files, makes it.
    """
    own = index / PRIORS / check_name(name)
    origin = source or (own if own.is_dir() else None)
    if origin is not None:
        kind_of(origin)  # before anything is copied: is it one?
    place = index / PRIORS / f".{name}.{os.getpid()}.tmp"
    try:
        _stage(name, origin, place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _stage(name: str, origin: Path | None, place: Path) -> None:
    try:
        if origin is not None:
            shutil.copytree(origin, place)
            return
        place.mkdir(parents=True)
        write_kind(place, name)
    except OSError as exc:
        raise PriorError(f"{place} cannot be written ({exc.strerror}): make room or give the right to write") from exc
    kind_of(place)


def install(index: Path, name: str, place: Path, fingerprint: str, *, default: bool) -> None:
    """Move a staged prior into an index and list it in the manifest; `default`: as the one that is asked unasked.

    A prior of this name goes first, from the manifest before its files, so that at no time it lists what is not there.
    """
    manifest, own = Manifest.read(index), index / PRIORS / name
    others = {n: p for n, p in manifest.priors.items() if n != name}
    kept = tuple(f for f in manifest.files if not f.name.startswith(f"{PRIORS}/{name}/"))
    asked = None if manifest.prior == name else manifest.prior
    if name in manifest.priors:
        replace(manifest, priors=others, prior=asked, files=kept).write(index)
    kind = kind_of(place)
    if own.exists():
        shutil.rmtree(own)
    os.replace(place, own)
    files = (*kept, *_files(index, own))
    priors = {**others, name: {"kind": kind, "fingerprint": fingerprint}}
    replace(manifest, priors=priors, prior=name if default else asked, files=files).write(index)


def _files(index: Path, own: Path) -> Iterator[FileEntry]:
    for path in sorted(own.rglob("*")):
        if path.is_file():
            yield file_entry(index, path.relative_to(index).as_posix())
