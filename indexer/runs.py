"""Folders of long jobs: which run a folder belongs to, who may work in it, and results that are whole or absent.

Builds, training runs and reports share these rules. A run's identity is a JSON object of everything that decides its
results; it is written into the folder first, and another identity is refused as long as there is work to lose. The
module does not know what the jobs do.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from indexer.errors import DiskError, IndexerError, RunLockedError, RunMismatchError
from retrieval.files import read_json, write_json

__all__ = [
    "LOCK_NAME",
    "begin_run",
    "check_results_folder",
    "check_writable",
    "disk_errors",
    "locked",
    "read_identity",
    "same_identity",
    "try_lock",
    "write_results_folder",
]

LOCK_NAME = "lock"

_LOCK_WAIT_S = 0.2
"""Long enough for another attempt when the folder is removed between opening and locking its lock file."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSING = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


def begin_run(path: Path, identity: Mapping[str, Any], *, resumable: bool, way_out: str) -> bool:
    """Record a run's identity in the JSON file `path`, or compare it with the recorded one.

    Returns True if this run is recorded there already and goes on, False if it begins now. `resumable`: whether the
    folder holds work that another identity would spoil; if not, the old record is replaced. Raises RunMismatchError,
    with the differing values and `way_out`, for another or an unreadable record.
    """
    try:
        before = read_json(path) if path.exists() else None
        if before is not None and not isinstance(before, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as exc:
        if resumable:
            raise RunMismatchError(f"{path} cannot be read ({exc}): delete the folder, or {way_out}") from exc
        before = None
    if same_identity(before, identity):
        return True
    if before is not None and resumable:
        difference = _difference(before, _plain(identity))
        raise RunMismatchError(f"{path.parent} holds a run with other arguments or data ({difference}): {way_out}")
    write_json(path, _plain(identity))
    return False


def read_identity(path: Path) -> dict[str, Any] | None:
    """The identity recorded in a file, or None if there is none that can be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def same_identity(recorded: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> bool:
    """Whether a recorded identity is this one; tuples equal lists, as in JSON."""
    return recorded is not None and recorded == _plain(identity)


def try_lock(path: Path) -> FileLock | None:
    """Lock a file, creating it, or return None if another process holds it.

    The caller releases the lock with `.release()`; the system frees it when the process ends, however it ends.
    Raises OSError, FileNotFoundError for a missing folder among them.
    """
    lock = FileLock(path, timeout=_LOCK_WAIT_S)
    try:
        lock.acquire(poll_interval=_LOCK_WAIT_S / 4)
    except Timeout:
        return None
    return lock


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a folder, creating it, while the block runs; the block may delete the folder.

    Raises RunLockedError with the text `busy` if another process holds the lock.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = try_lock(folder / LOCK_NAME)
        except FileNotFoundError:
            continue  # another process removed the folder just now
        break
    if lock is None:
        raise RunLockedError(busy)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the OSError of a full or refusing disk into a DiskError that says that nothing is lost."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            way_out = "what was written stays: free some space and run the same command again, and it goes on"
        elif exc.errno in _REFUSING:
            way_out = "choose another folder, or repair this one"
        else:
            raise
        raise DiskError(f"{exc.filename or where}: {exc.strerror}; {way_out}") from exc


def check_results_folder(out: Path, mark: str, error: type[IndexerError]) -> None:
    """Check, before any work, that results may be written to `out`.

    It must be missing, empty, or an earlier result, which holds a file named `mark`. Raises `error`.
    """
    if out.exists() and not out.is_dir():
        raise error(f"--out {out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).exists():
        raise error(f"--out {out} holds other files and no {mark}: name another folder, or empty it")
    if not out.absolute().parent.is_dir():
        raise error(f"--out {out}: there is no folder {out.absolute().parent}; make it first")
    check_writable(out.absolute().parent, out, error)


def check_writable(folder: Path, out: Path, error: type[IndexerError]) -> None:
    """Raise `error` unless something can be made in an existing folder; `out`: the option that it is for."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".tilebeam-", dir=folder))
    except OSError as exc:
        raise error(f"--out {out}: {folder} cannot be written ({exc.strerror}): name another folder") from exc


def write_results_folder(out: Path, fill: Callable[[Path], None], error: type[IndexerError]) -> None:
    """Let `fill` write into an empty folder beside `out`, then rename it to `out`, replacing an earlier result.

    Raises `error` if the disk refuses; `out` is then as before.
    """
    out = out.absolute()
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            fresh = beside / "new"
            fresh.mkdir()
            fill(fresh)
            if out.exists():
                os.replace(out, beside / "old")
            os.replace(fresh, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as exc:
        raise error(f"--out {out} cannot be written ({exc.strerror}): free space, or name another") from exc


def _plain(identity: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(identity))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    return "; ".join(f"{k} was {_short(before.get(k))} and is now {_short(now.get(k))}" for k in keys)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
