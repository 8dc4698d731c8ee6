"""A folder of results: written beside its place, put there when it is whole, instead of an earlier one of its kind."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from indexer.errors import IndexerError

__all__ = ["check_out", "write_out"]


def check_out(out: Path, mark: str, error: type[IndexerError]) -> None:
    """Before any work: the place is free, empty, or an earlier result, which has a file `mark`. Raises `error`."""
    if out.exists() and not out.is_dir():
        raise error(f"--out {out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).exists():
        raise error(f"--out {out} holds other things and no {mark}: name another folder, or empty it")
    if not out.absolute().parent.is_dir():
        raise error(f"--out {out}: there is no folder {out.absolute().parent}; make it first")


def write_out(out: Path, fill: Callable[[Path], None], error: type[IndexerError]) -> None:
    """Let `fill` write an empty folder, and put it in its place. Raises `error` where it cannot be written."""
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
