"""The half-made index beside its final place: who may work on it, for which plan, and how it becomes the index.

`OUT.partial/` holds plan.json (what was asked for), rows/, units/, filled/ and index/ (what becomes OUT), and a lock
file that is held while a build works there. It knows nothing of tiles and encoders.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from indexer.errors import BuildError, BuildLockedError, DiskError, ExistingIndexError, PlanMismatchError
from retrieval.files import read_json, write_json
from retrieval.index.manifest import MANIFEST_NAME

__all__ = ["PLAN_NAME", "Partial", "claim", "disk_errors", "is_finished", "plan_hash"]

PLAN_NAME = "plan.json"
LOCK_NAME = "lock"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSING = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


class Partial:
    """Paths in a claimed work folder."""

    def __init__(self, out: Path, root: Path) -> None:
        self.out, self.root = out, root
        self.rows, self.units, self.filled = root / "rows", root / "units", root / "filled"
        self.index = root / "index"
        self.fetched = root / "fetched.json"

    def publish(self, *, overwrite: bool) -> None:
        """Make index/ the index at `out` by renaming, then forget the work. An older index goes only now."""
        retired = self.out.with_name(self.out.name + ".old")
        if self.out.exists():
            if not overwrite and any(self.out.iterdir()):
                raise ExistingIndexError(_taken(self.out))
            shutil.rmtree(retired, ignore_errors=True)
            self.out.rename(retired)
        self.index.rename(self.out)
        _sync(self.out.parent)
        shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def claim(out: Path, plan: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Partial]:
    """Lock `OUT.partial`, making it where it is missing, for this plan.

    Raises BuildLockedError while another process holds it, PlanMismatchError if it was begun for another plan
    (`overwrite` empties it instead), ExistingIndexError if `out` is taken (`overwrite` lets `publish` replace it).
    """
    out = Path(os.path.abspath(out))  # `.` has no name to put .partial behind
    _check_place(out, overwrite)
    root = out.with_name(out.name + ".partial")
    handle = _locked(root)
    try:
        partial = Partial(out, root)
        _settle_plan(partial, plan, overwrite)
        yield partial
    finally:
        os.close(handle)


def is_finished(out: Path, plan: Mapping[str, Any]) -> bool:
    """Whether `out` is a whole index that was made for exactly this plan."""
    return (out / MANIFEST_NAME).is_file() and _read_plan(out / PLAN_NAME) == _plain(plan)


def forget(out: Path) -> None:
    """Remove what a kill between publishing and tidying left beside a finished index; leave another build's alone."""
    out = Path(os.path.abspath(out))
    root = out.with_name(out.name + ".partial")
    if not root.is_dir() or _read_plan(root / PLAN_NAME) not in (None, _read_plan(out / PLAN_NAME)):
        return
    try:
        handle = _locked(root)
    except BuildLockedError:
        return
    shutil.rmtree(root, ignore_errors=True)
    os.close(handle)


def plan_hash(plan: Mapping[str, Any]) -> str:
    """SHA-256 of a plan."""
    return hashlib.sha256(json.dumps(_plain(plan), sort_keys=True).encode()).hexdigest()


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a full or refusing disk raises into a DiskError that says that nothing is lost."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL | _REFUSING:
            raise DiskError(_disk_message(exc, where)) from exc
        raise


_GO_ON = "what was written stays: free some space and run the same command again, and it goes on"


def _disk_message(exc: OSError, where: Path) -> str:
    named = exc.filename or where
    return f"{named}: {exc.strerror}; {_GO_ON if exc.errno in _FULL else 'give another place, or mend this one'}"


def _check_place(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ExistingIndexError(f"{out} is a file; an index is a directory: give another --out")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ExistingIndexError(_taken(out))
        if not (out / MANIFEST_NAME).is_file():
            raise ExistingIndexError(f"{out} holds files that are no index, so --overwrite leaves it alone: move them")
    if not out.parent.is_dir():
        raise BuildError(f"{out.parent} is no folder: make it, or give another --out")


def _taken(out: Path) -> str:
    if (out / MANIFEST_NAME).is_file():
        return f"{out} is an index made with other arguments: give --overwrite to replace it, or another --out"
    return f"{out} is not empty and no index: give another --out"


def _locked(root: Path) -> int:
    """A handle that holds the lock of the folder `root`, which is there; the system frees it when the process ends."""
    path = root / LOCK_NAME
    while True:
        root.mkdir(exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another build removed the folder just now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(handle)
            raise BuildLockedError(
                f"{root} is in use by another build of the same index: wait for it or end it"
            ) from exc
        # The other build may have finished and removed the folder between opening and locking its file.
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
        os.close(handle)


def _settle_plan(partial: Partial, plan: Mapping[str, Any], overwrite: bool) -> None:
    path, wanted = partial.root / PLAN_NAME, _plain(plan)
    found = _read_plan(path)
    if found is not None and found != wanted:
        if not overwrite:
            raise PlanMismatchError(
                f"{partial.root} was begun with other arguments ({_difference(found, wanted)}): repeat those to go on, "
                "give --overwrite to begin anew, or another --out"
            )
        found = None
    if found is None:
        for child in list(partial.root.iterdir()):
            if child.name != LOCK_NAME:
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        write_json(path, wanted)


def _read_plan(path: Path) -> Any:
    """A plan as JSON, or None where there is none that can be read: it is written first, so nothing else is there."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _plain(plan: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(plan))


def _difference(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict):
        return "unreadable"
    keys = [k for k in wanted if found.get(k) != wanted[k]] + [k for k in found if k not in wanted]
    return "; ".join(f"{k}: {_short(found.get(k))} there, {_short(wanted.get(k))} now" for k in keys)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "..."


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
