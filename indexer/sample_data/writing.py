"""How a set reaches the disk: pictures by rename, a CSV, and a note of what made it, so that a killed run goes on.

It knows files, not what is in them.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indexer.errors import IndexerError
from retrieval.files import read_json, write_atomically, write_json


class AnotherSetError(IndexerError):
    """The folder holds a set that was made otherwise."""


def claim(folder: Path, name: str, made: dict[str, Any]) -> None:
    """Note in `folder`/`name` what is being made there. Raises AnotherSetError where something else lies already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists():
        write_json(path, made)
        return
    before = read_json(path)
    if before != made:
        changed = sorted(k for k in {*before, *made} if before.get(k) != made.get(k))
        raise AnotherSetError(
            f"{folder} holds a set with another {', '.join(changed)} ({name}): choose another --out or delete it"
        )


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; not flushed to disk, because a file lost in a power cut can be drawn again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: _write_bytes(temporary, data), flush=False)


def jpeg(pixels: NDArray[np.uint8], quality: int, *, full_colour: bool = False) -> bytes:
    """(h, w, 3) uint8 as JPEG; `full_colour` keeps the resolution of the colours."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0 if full_colour else 2)
    return out.getvalue()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(h, w, 3) uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV with a header, whole or absent."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    put(path, text.getvalue().encode())


def read_csv(path: Path) -> list[list[str]]:
    """All rows of a table, the header first."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def degrees(value: float) -> str:
    """Degrees to a tenth of a metre; nothing where there is no place."""
    return "" if np.isnan(value) else f"{value:.6f}"


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
