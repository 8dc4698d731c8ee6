"""Files of a set of sample data: pictures, tables, the note that a set is resumed by, and contact sheets.

Knows nothing of what the pictures show.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from indexer.errors import IndexerError
from retrieval.files import read_json, write_atomically, write_json

__all__ = [
    "AnotherSetError",
    "Pixels",
    "as_pixels",
    "claim",
    "contact_sheet",
    "degrees",
    "jpeg",
    "png",
    "put",
    "read_csv",
    "write_csv",
]

Pixels = NDArray[np.uint8]
_EDGE, _LABEL = 96, 150  # pixels of a contact sheet: one picture, and the column of names


class AnotherSetError(IndexerError):
    """The folder holds a set that was made with other arguments."""


def claim(folder: Path, name: str, arguments: dict[str, Any]) -> None:
    """Note in `folder`/`name` the arguments of the set that is drawn there. Raises AnotherSetError for other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists():
        write_json(path, arguments)
        return
    stored = read_json(path)
    if stored != arguments:
        changed = sorted(k for k in {*stored, *arguments} if stored.get(k) != arguments.get(k))
        raise AnotherSetError(
            f"{folder} holds a set with another {', '.join(changed)} ({name}): choose another --out or delete it"
        )


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; not flushed to disk, because a file lost in a power cut can be drawn again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: _write_bytes(temporary, data), flush=False)


def jpeg(pixels: Pixels, quality: int, *, full_colour: bool = False) -> bytes:
    """(h, w, 3) uint8 as JPEG; `full_colour` stores the colours at full resolution."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0 if full_colour else 2)
    return out.getvalue()


def png(pixels: Pixels) -> bytes:
    """(h, w, 3) uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    put(path, text.getvalue().encode())


def read_csv(path: Path) -> list[list[str]]:
    """All rows of a CSV file, the header first."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def degrees(value: float) -> str:
    """Degrees with six decimals, a tenth of a metre; an empty text for NaN."""
    return "" if np.isnan(value) else f"{value:.6f}"


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def as_pixels(values: NDArray[np.floating]) -> Pixels:
    """Colours, 0 to 255, rounded to uint8; values beyond are clipped."""
    return np.asarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def contact_sheet(table: Path, out: Path, columns: int = 12) -> None:
    """Write the first pictures of a set's table as one PNG, with a row for each family, for a quick look."""
    rows: dict[str, list[Path]] = defaultdict(list)
    with table.open(newline="") as file:
        for number, entry in enumerate(csv.DictReader(file)):
            name = (
                f"{entry['family']}\n{entry['split']}, {entry['kind']}" if "family" in entry else f"{number // columns}"
            )
            rows[name].append(table.parent / entry["path"])
    shown = dict(list(rows.items())[:40])
    sheet = Image.new("RGB", (_LABEL + columns * _EDGE, len(shown) * _EDGE), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, paths) in enumerate(shown.items()):
        draw.text((6, y * _EDGE + 24), name, fill="black", font=ImageFont.load_default(14))
        for x, path in enumerate(paths[:columns]):
            with Image.open(path) as picture:
                sheet.paste(picture.resize((_EDGE - 4, _EDGE - 4)), (_LABEL + x * _EDGE + 2, y * _EDGE + 2))
    sheet.save(out, "PNG")
