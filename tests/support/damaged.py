"""A folder of pictures and its CSV with every kind of damage, and the expected reason for each damaged row.

Tests of code that is built on photo sets use it as well: `make_damaged(folder)`, then `read_photos(damaged.table)`.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

KINDS: dict[str, str] = {
    "too few fields": "malformed row",
    "too many fields": "malformed row",
    "quote never closed": "malformed row",
    "path in Latin-1": "undecodable text",
    "NUL in the path": "NUL byte",
    "no path": "empty path",
    "no such file": "missing file",
    "path through a file": "missing file",
    "dangling link": "missing file",
    "a folder": "not a file",
    "a pipe": "not a file",
    "links in a circle": "unreadable file",
    "row twice": "duplicate row",
    "two places": "conflicting duplicate",
    "no latitude": "coordinates missing",
    "no place": "coordinates missing",
    "degrees in words": "coordinates not a number",
    "infinite longitude": "coordinates not a number",
    "longitude 200": "coordinates out of range",
    "swapped": "coordinates look swapped",
    "at the pole": "beyond Web-Mercator's limit",
    "null island": "null island",
    "zero bytes": "empty file",
    "text as JPEG": "unreadable image",
    "cut off": "unreadable image",
    "bits flipped": "unreadable image",
    "bomb of pixels": "image too large",
    "JPEG 2000 as JPEG": "unsupported format",
}
"""Each kind of damage, and the reason that must be reported for it."""

FOUND_WHEN_DECODED = ("empty file", "unreadable image", "image too large", "unsupported format")


@dataclass(frozen=True)
class Damaged:
    """`table`: the CSV. `expected`: line -> reason. `good`: names of the rows that must survive."""

    table: Path
    expected: dict[int, str]
    good: tuple[str, ...]


def picture(rng: np.random.Generator, size: int = 32) -> Image.Image:
    """A random picture with structure: no two are near-duplicates, and shrinking keeps its hash."""
    coarse = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The picture as the bytes of a file."""
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_damaged(
    folder: Path,
    rows: int = 1000,
    of_each: int = 4,
    bounds: tuple[float, float, float, float] = (-9.0, 36.0, 29.0, 59.0),
    seed: int = 0,
) -> Damaged:
    """Write `photos.csv` of `rows` rows: `of_each` of every kind of damage, in random order among good ones.

    `bounds`: west, south, east, north in degrees; good pictures are placed within.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    maker = _Maker(folder, rng, bounds)
    kinds = [kind for kind in KINDS for _ in range(of_each)]
    assert rows > 2 * len(kinds), "give more rows: good ones must outnumber bad ones"
    plan = [*kinds, *[""] * (rows - len(kinds))]
    for at in rng.permutation(len(plan)):
        maker.row(plan[at])
    (folder / "photos.csv").write_bytes(b"".join(maker.lines))
    return Damaged(folder / "photos.csv", maker.expected, tuple(maker.good))


class _Maker:
    def __init__(self, folder: Path, rng: np.random.Generator, bounds: tuple[float, float, float, float]) -> None:
        self.folder, self.rng, self.bounds = folder, rng, bounds
        self.lines = [b"path,latitude,longitude,title\r\n"]
        self.expected: dict[int, str] = {}
        self.good: list[str] = []
        self.number = 0

    def row(self, kind: str) -> None:
        self.number += 1
        self.name = f"{kind.replace(' ', '-') or 'good'}-{self.number:05}.jpg"
        if not kind:
            self._good()
            return
        reason = KINDS[kind]
        if reason in ("duplicate row", "conflicting duplicate"):
            self._twice(kind, reason)
            return
        self._file(kind)
        self._line(self._damaged(kind), reason)

    def _line(self, line: bytes, reason: str | None) -> None:
        at = 1 + sum(text.count(b"\n") for text in self.lines)
        self.lines.append(line)
        if reason is not None:
            self.expected[at] = reason

    def _good(self) -> None:
        self.good.append(self.name)
        self._save(self.name, encoded(picture(self.rng)))
        title = '"a title, quoted ""so""\r\nover two lines"' if self.number % 50 == 0 else "title"
        self._line(self._cells(self.name, *self._place(), title), None)

    def _twice(self, kind: str, reason: str) -> None:
        self._save(self.name, encoded(picture(self.rng)))
        lat, lng = self._place()
        self._line(self._cells(self.name, lat, lng), None if kind == "row twice" else reason)
        if kind == "row twice":
            self.good.append(self.name)
            self._line(self._cells("./" + self.name, lat, lng), reason)
        else:
            self._line(self._cells(self.name, *self._place()), reason)

    def _place(self) -> tuple[str, str]:
        west, south, east, north = self.bounds
        return f"{self.rng.uniform(south, north):.6f}", f"{self.rng.uniform(west, east):.6f}"

    def _cells(self, *cells: str) -> bytes:
        return ",".join([*cells, *["untitled"] * (4 - len(cells))]).encode() + b"\r\n"

    def _damaged(self, kind: str) -> bytes:
        lat, lng = self._place()
        name = self.name
        special: dict[str, Callable[[], bytes]] = {
            "too few fields": lambda: f"{name},{lat}\r\n".encode(),
            "too many fields": lambda: f"{name},{lat},{lng},a,title\r\n".encode(),
            "quote never closed": lambda: f'"{name},{lat},{lng},title\r\n'.encode(),
            "path in Latin-1": lambda: f"plage-d'été-{name},{lat},{lng},title\r\n".encode("latin-1"),
            "NUL in the path": lambda: self._cells(f"{name}\0", lat, lng),
            "no path": lambda: self._cells(" ", lat, lng),
            "path through a file": lambda: self._cells(f"{name}/{name}", lat, lng),
            "no latitude": lambda: self._cells(name, "", lng),
            "no place": lambda: self._cells(name, "NA", "NA"),
            "degrees in words": lambda: self._cells(name, "forty-eight", lng),
            "infinite longitude": lambda: self._cells(name, lat, "inf"),
            "longitude 200": lambda: self._cells(name, lat, "200.5"),
            "swapped": lambda: self._cells(name, "121.47", lat),
            "at the pole": lambda: self._cells(name, "-89.9", lng),
            "null island": lambda: self._cells(name, "0.0", "0"),
        }
        return special.get(kind, lambda: self._cells(name, lat, lng))()

    def _file(self, kind: str) -> None:
        """Create what the row's path names."""
        path = self.folder / self.name
        if kind == "no such file":
            return
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "dangling link":
            path.symlink_to(self.folder / "gone.jpg")
        elif kind == "links in a circle":
            path.symlink_to(path.name)
        else:
            self._save(self.name, self._bytes(kind))

    def _bytes(self, kind: str) -> bytes:
        image = picture(self.rng)
        whole = encoded(image)
        if kind == "bits flipped":
            png = bytearray(encoded(image, "PNG"))
            png[len(png) // 2] ^= 0xFF
            return bytes(png)
        special = {
            "zero bytes": b"",
            "text as JPEG": b"<html>404 Not Found</html>",
            "cut off": whole[: len(whole) // 2],
            "bomb of pixels": _bomb(),
            "JPEG 2000 as JPEG": encoded(image, "JPEG2000"),
        }
        return special.get(kind, whole)

    def _save(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)


def _bomb() -> bytes:
    """A PNG of a few bytes whose header declares 60,000 x 60,000 pixels."""
    png = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    return bytes(png)
