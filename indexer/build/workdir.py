"""The work directory of a build, `OUT.partial/`: its paths, its lock, and how it becomes the index at OUT.

It holds plan.json (the build identity: everything that decides the index's bytes), rows/, units/, filled/ and index/
(which becomes OUT), and a lock file that is held while a build works there. It knows nothing of tiles and encoders.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from indexer.errors import BuildError, ExistingIndexError, RunLockedError
from indexer.runs import LOCK_NAME, begin_run, locked, read_identity, same_identity
from retrieval.files import sync_directory
from retrieval.index.manifest import MANIFEST_NAME

__all__ = ["IDENTITY_NAME", "Workdir", "is_finished", "open_workdir", "remove_leftovers"]

IDENTITY_NAME = "plan.json"
"""The build identity, in the work directory and in the finished index."""


class Workdir:
    """Paths of a build: `out` is the index's final place, `root` the work directory beside it."""

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.abspath(out))  # `.` has no name that .partial could be added to
        if not self.out.name:
            raise BuildError(f"{self.out} cannot be replaced by an index: give a folder in it as --out")
        self.root = self.out.with_name(self.out.name + ".partial")
        self.rows, self.units, self.filled = self.root / "rows", self.root / "units", self.root / "filled"
        self.index = self.root / "index"
        self.identity = self.root / IDENTITY_NAME
        self.fetched = self.root / "fetched.json"

    def publish(self, *, overwrite: bool) -> None:
        """Rename index/ to `out` and delete the work directory. An older index at `out` is deleted only now."""
        retired = self.out.with_name(self.out.name + ".old")
        if self.out.exists():
            if not overwrite and any(self.out.iterdir()):
                raise ExistingIndexError(_taken(self.out))
            shutil.rmtree(retired, ignore_errors=True)
            self.out.rename(retired)
        self.index.rename(self.out)
        sync_directory(self.out.parent)
        shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def discard(self) -> None:
        """Delete the work directory, because nothing in it is worth going on from."""
        shutil.rmtree(self.root, ignore_errors=True)

    def empty(self) -> None:
        """Delete everything but the lock file."""
        for child in list(self.root.iterdir()):
            if child.name != LOCK_NAME:
                shutil.rmtree(child) if child.is_dir() else child.unlink()


@contextmanager
def open_workdir(out: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Workdir]:
    """Lock the work directory of `out`, creating it, for a build with this identity.

    Raises RunLockedError while another process holds it, RunMismatchError if it was begun with another identity
    (`overwrite` empties it instead), ExistingIndexError if `out` is taken (`overwrite` lets `publish` replace it).
    """
    work = Workdir(out)
    _check_out(work.out, overwrite)
    with locked(work.root, f"{work.root} is in use by another build of the same index: wait for it or end it"):
        recorded = read_identity(work.identity)
        if recorded is None or (overwrite and not same_identity(recorded, identity)):
            work.empty()
        way_out = "give the same arguments to go on, --overwrite to begin anew, or another --out"
        begin_run(work.identity, identity, resumable=True, way_out=way_out)
        yield work


def is_finished(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `out` is a whole index with exactly this build identity."""
    return (out / MANIFEST_NAME).is_file() and same_identity(read_identity(out / IDENTITY_NAME), identity)


def remove_leftovers(out: Path) -> None:
    """Delete the work directory that a kill right after publishing left beside a finished index.

    The work directory of a build with another identity, or one in use, is left alone.
    """
    work = Workdir(out)
    if not work.root.is_dir() or read_identity(work.identity) not in (None, read_identity(work.out / IDENTITY_NAME)):
        return
    try:
        with locked(work.root, "in use"):
            shutil.rmtree(work.root, ignore_errors=True)
    except RunLockedError:
        return


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ExistingIndexError(f"{out} is a file; an index is a directory: give another --out")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ExistingIndexError(_taken(out))
        if not (out / MANIFEST_NAME).is_file():
            raise ExistingIndexError(f"{out} is not an index, so --overwrite does not delete its files: move them")
    if not out.parent.is_dir():
        raise BuildError(f"the folder {out.parent} does not exist: make it, or give another --out")


def _taken(out: Path) -> str:
    if (out / MANIFEST_NAME).is_file():
        return f"{out} is an index made with other arguments: give --overwrite to replace it, or another --out"
    return f"{out} is not empty and not an index: give another --out"
