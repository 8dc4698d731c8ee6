"""The priors of an index: installed into its directory, listed in its manifest, opened with their calibrations.

`INDEX/priors/<name>/` holds all files of a prior, so an index can be moved as a whole. This module knows files and
numbers, no pictures.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import PriorError, QueryError, damage_as
from retrieval.files import check_tree, is_inside, real_path
from retrieval.index.calibration import Calibration
from retrieval.index.file_entries import FileEntry, file_entry
from retrieval.index.manifest import Manifest, is_prior_name
from retrieval.index.reader import TileIndex
from retrieval.priors.base import Prior, write_kind
from retrieval.priors.registry import check_kind, kind_of, open_kind, open_prior
from retrieval.search.plan import InstalledPrior
from retrieval.search.query import NO_PRIOR

__all__ = ["OpenPriors", "check_name", "check_origin", "install", "open_installed", "staged"]

PRIORS = "priors"


@dataclass(frozen=True)
class OpenPriors:
    """Open priors by name. `default`: the prior of queries that name none; None for no prior."""

    by_name: Mapping[str, InstalledPrior]
    default: str | None = None

    def select(self, name: str | None) -> InstalledPrior | None:
        """The prior with this name, the default for None; None for `none`. Raises QueryError for an unknown name."""
        chosen = self.default if name is None else name
        if chosen is None or chosen == NO_PRIOR:
            return None
        if chosen not in self.by_name:
            if not self.by_name:
                raise QueryError(
                    f"unknown prior {chosen!r}: this index has no priors; leave the prior out, or start the service "
                    "with --prior geoclip or --prior density, which need no files"
                )
            raise QueryError(f"unknown prior {chosen!r}; use {', '.join([*self.by_name, NO_PRIOR])}")
        return self.by_name[chosen]

    def describe(self) -> list[dict[str, Any]]:
        """Name, fingerprint and calibration id of each prior, for GET /index."""
        return [
            {"name": name, "fingerprint": prior.prior.fingerprint, "calibration_id": prior.calibration_id}
            for name, prior in self.by_name.items()
        ]


def open_installed(
    index: TileIndex,
    calibration: Calibration,
    photo: EncodesPhotos,
    *,
    device: str = "auto",
    names: Iterable[str] | None = None,
    default: str | None = None,
    reuse: Mapping[str, Prior] | None = None,
) -> OpenPriors:
    """Open the priors of an index with their calibrations; all of them, or only `names`.

    `calibration`: the index's own. `default`: replaces the manifest's default prior; `none` for no prior. A name that
    the index does not list is opened as a kind of prior that needs no files. `reuse`: priors that are already open with
    this photo encoder; one is taken over if the manifest lists the same fingerprint. Raises PriorError,
    CalibrationError, and the errors of the priors' encoders.
    """
    listed, default = index.manifest.priors, default or index.manifest.prior
    wanted = list(listed) if names is None else list(names)
    if default not in (None, NO_PRIOR):
        wanted.append(str(default))
    priors = {}
    for name in dict.fromkeys(wanted):
        prior = _reusable(index, name, reuse) or _open(index, name, device, photo)
        own = Calibration.read(index.directory, name)
        priors[name] = InstalledPrior.of(name, prior, calibration, index.zooms, own)
    return OpenPriors(priors, default)


def _reusable(index: TileIndex, name: str, reuse: Mapping[str, Prior] | None) -> Prior | None:
    """The open prior of this name, unless the index has another version of it."""
    prior, entry = (reuse or {}).get(name), index.manifest.priors.get(name)
    if prior is not None and entry is not None and entry.get("fingerprint") != prior.fingerprint:
        return None
    return prior


def _open(index: TileIndex, name: str, device: str, photo: EncodesPhotos) -> Prior:
    entry = index.manifest.priors.get(name)
    if entry is None:
        return open_kind(check_name(name), None, device=device, photo=photo)
    directory = index.directory / PRIORS / name
    with damage_as(PriorError, directory, "copy the index again, or install the prior again"):
        real_path(directory, index.directory)
    prior = open_prior(directory, device=device, photo=photo)
    if prior.fingerprint != entry.get("fingerprint"):
        raise PriorError(
            f"{directory} differs from the prior that was installed: run `tilebeam calibrate --prior` with it again"
        )
    return prior


def check_name(name: str) -> str:
    """Return a prior's name, or raise PriorError: the name becomes part of file names."""
    if not is_prior_name(name):
        raise PriorError(
            f"{name!r} is not a valid name of a prior: use up to 40 of a-z, 0-9, - and _, and not {NO_PRIOR!r}"
        )
    return name


def check_origin(index: Path, name: str, source: Path | None) -> None:
    """Raise PriorError if `staged` would find no prior: a fast check of what a long job needs at its end."""
    if source is not None:
        kind_of(source)
    elif not (index / PRIORS / check_name(name)).is_dir():
        check_kind(name, has_files=False)


@contextmanager
def staged(index: Path, name: str, source: Path | None) -> Iterator[Path]:
    """A copy of a prior's directory inside the index; removed at the end unless `install` has moved it into place.

    `source`: the directory to copy; None copies the prior of this name that the index already has, or, if it has none,
    writes the directory of a kind that needs no files.
    """
    installed = index / PRIORS / check_name(name)
    origin = source or (installed if installed.is_dir() else None)
    if origin is not None:
        kind_of(origin)  # raises before anything is copied if this is not a prior's directory
    directory = index / PRIORS / f".{name}.{os.getpid()}.tmp"
    try:
        _stage(name, origin, directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _stage(name: str, origin: Path | None, directory: Path) -> None:
    try:
        if origin is not None:
            check_tree(origin)  # a copy of a FIFO or of a link to a device would not end
            shutil.copytree(origin, directory)
            return
        directory.mkdir(parents=True)
        write_kind(directory, name)
    except OSError as exc:
        raise PriorError(f"cannot write {directory} ({exc.strerror}): free some space or check permissions") from exc
    kind_of(directory)


def install(index: Path, name: str, directory: Path, fingerprint: str, *, default: bool) -> None:
    """Move a staged prior into an index and list it in the manifest; `default`: use it for queries that name none.

    An older prior of this name is removed from the manifest before its files are deleted, so the manifest never lists
    missing files.
    """
    manifest, installed = Manifest.read(index), index / PRIORS / name
    other_priors = {n: p for n, p in manifest.priors.items() if n != name}
    other_files = tuple(f for f in manifest.files if not f.name.startswith(f"{PRIORS}/{name}/"))
    old_default = None if manifest.prior == name else manifest.prior
    if name in manifest.priors:
        replace(manifest, priors=other_priors, prior=old_default, files=other_files).write(index)
    kind = kind_of(directory)
    if installed.exists():
        shutil.rmtree(installed)
    os.replace(directory, installed)
    files = (*other_files, *_file_entries(index, installed))
    priors = {**other_priors, name: {"kind": kind, "fingerprint": fingerprint}}
    replace(manifest, priors=priors, prior=name if default else old_default, files=files).write(index)


def _file_entries(index: Path, directory: Path) -> Iterator[FileEntry]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = path.relative_to(index).as_posix()
            if not is_inside(name):
                raise PriorError(f"an index cannot hold a file named {name!r}: rename it")
            yield file_entry(index, name)
