"""Pictures that an index cannot place, in families: `FAMILY/NNN.jpg` and `elsewhere.csv`, decided by a seed.

`kind` says whether a picture shows no place at all (no coordinates) or a real place in a rendition that no encoder
learnt (with its true centre). `split` keeps whole families apart: what is fitted on `train` is judged on `test`.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from indexer.builtin.views import Views
from indexer.sample_data import foreign_fit, foreign_test, from_earth, inventions, patterns
from indexer.sample_data.collected import crops_of
from indexer.sample_data.writing import claim, degrees, jpeg, put, read_csv, write_csv

QUALITY = 92
_FLAT = 6.0  # standard deviation of a channel, of 255
HEADER = ("path", "family", "split", "latitude", "longitude", "kind")

Pixels = NDArray[np.uint8]
Split = Literal["train", "test"]
Kind = Literal["no-place", "foreign"]
Single = Callable[[np.random.Generator, int], Pixels]
Many = Callable[[np.random.Generator, int, int], Pixels]
Rendition = Callable[[Views, int, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Elsewhere:
    """What decides a set."""

    per_family: int = 150
    seed: int = 302
    size: int = 160  # pixels along an edge


@dataclass(frozen=True)
class Family:
    """Pictures of one make. `draw` gives `count` pictures and, for a foreign family, where they look."""

    name: str
    split: Split
    kind: Kind
    draw: Callable[["Family", Elsewhere], tuple[Pixels, Views | None]]

    def generator(self, chosen: Elsewhere, stream: int) -> np.random.Generator:
        """Random numbers of this family alone: another family more or less changes nothing here."""
        return np.random.default_rng([chosen.seed, zlib.crc32(self.name.encode()), stream])


def _one_by_one(single: Single) -> Callable[[Family, Elsewhere], tuple[Pixels, None]]:
    def draw(family: Family, chosen: Elsewhere) -> tuple[Pixels, None]:
        made = [single(family.generator(chosen, i), chosen.size) for i in range(chosen.per_family)]
        return np.stack(made), None

    return draw


def _at_once(many: Many) -> Callable[[Family, Elsewhere], tuple[Pixels, None]]:
    return lambda family, chosen: (many(family.generator(chosen, 0), chosen.per_family, chosen.size), None)


def _rendered(rendition: Rendition) -> Callable[[Family, Elsewhere], tuple[Pixels, Views]]:
    def draw(family: Family, chosen: Elsewhere) -> tuple[Pixels, Views]:
        views = from_earth.land_views(chosen.per_family + chosen.per_family // 2, family.generator(chosen, 0))
        pictures = rendition(views, chosen.size, family.generator(chosen, 1))
        # A map of one country's middle is a flat colour, which shows nothing of a place: such ones come last.
        flat = pictures.std(axis=(1, 2)).mean(axis=1) < _FLAT
        kept = np.argsort(flat, kind="stable")[: chosen.per_family]
        return pictures[kept], views.take(kept)

    return draw


FAMILIES = (
    Family("noise", "train", "no-place", _one_by_one(patterns.noise)),
    Family("gradients", "train", "no-place", _one_by_one(patterns.gradients)),
    Family("stripes", "train", "no-place", _one_by_one(patterns.stripes)),
    Family("discs", "train", "no-place", _one_by_one(patterns.discs)),
    Family("text", "train", "no-place", _one_by_one(patterns.text)),
    Family("banded-planets", "train", "no-place", _one_by_one(patterns.banded_planets)),
    Family("people", "train", "no-place", _one_by_one(crops_of("people"))),
    Family("microscopy", "train", "no-place", _one_by_one(crops_of("microscopy"))),
    Family("textures", "train", "no-place", _one_by_one(crops_of("textures"))),
    Family("deep-space", "train", "no-place", _one_by_one(crops_of("deep-space"))),
    Family("shuffled", "train", "no-place", _at_once(from_earth.shuffled)),
    Family("open-sea", "train", "no-place", _at_once(from_earth.open_sea)),
    Family("political", "train", "foreign", _rendered(foreign_fit.political)),
    Family("two-tone", "train", "foreign", _rendered(foreign_fit.two_tone)),
    Family("false-colour", "train", "foreign", _rendered(foreign_fit.false_colour)),
    Family("facets", "train", "foreign", _rendered(foreign_fit.facets)),
    Family("noise-clouds", "test", "no-place", _one_by_one(inventions.noise_clouds)),
    Family("mosaics", "test", "no-place", _one_by_one(inventions.mosaics)),
    Family("charts", "test", "no-place", _one_by_one(inventions.charts)),
    Family("cratered-bodies", "test", "no-place", _one_by_one(inventions.cratered_bodies)),
    Family("invented-lands", "test", "no-place", _one_by_one(inventions.invented_lands)),
    Family("objects", "test", "no-place", _one_by_one(crops_of("objects"))),
    Family("medical", "test", "no-place", _one_by_one(crops_of("medical"))),
    Family("moon", "test", "no-place", _one_by_one(crops_of("moon"))),
    Family("scans", "test", "no-place", _one_by_one(crops_of("scans"))),
    Family("mirrored", "test", "no-place", _at_once(from_earth.mirrored)),
    Family("polar-ice", "test", "no-place", _at_once(from_earth.polar_ice)),
    Family("sketch", "test", "foreign", _rendered(foreign_test.sketch)),
    Family("tinted-heights", "test", "foreign", _rendered(foreign_test.tinted_heights)),
    Family("cartoon", "test", "foreign", _rendered(foreign_test.cartoon)),
    Family("engraving", "test", "foreign", _rendered(foreign_test.engraving)),
)


def write_elsewhere(
    chosen: Elsewhere, folder: Path, on_progress: Callable[[int, int], None], families: tuple[Family, ...] = FAMILIES
) -> None:
    """Draw what is missing and write the table. `on_progress` is told (done, all). Raises AnotherSetError."""
    claim(folder, "elsewhere.json", {**vars(chosen), "families": [f.name for f in families]})
    rows: list[list[str]] = []
    for number, family in enumerate(families):
        on_progress(number * chosen.per_family, len(families) * chosen.per_family)
        rows += _write_family(family, chosen, folder)
    write_csv(folder / "elsewhere.csv", HEADER, rows)
    on_progress(len(rows), len(rows))


def _write_family(family: Family, chosen: Elsewhere, folder: Path) -> list[list[str]]:
    """Draw a family unless its own table, which is written last, is there; returns the table's rows."""
    table = folder / family.name / "pictures.csv"
    if not table.exists():
        pictures, views = family.draw(family, chosen)
        paths = [f"{family.name}/{i:03d}.jpg" for i in range(len(pictures))]
        for path, pixels in zip(paths, pictures, strict=True):
            put(folder / path, jpeg(pixels, QUALITY))
        nowhere = np.full(len(paths), np.nan)
        lats, lngs = (nowhere, nowhere) if views is None else (views.lat, views.lng)
        fixed = (family.name, family.split)
        places = zip(paths, map(degrees, lats), map(degrees, lngs), strict=True)
        write_csv(table, HEADER, [(path, *fixed, lat, lng, family.kind) for path, lat, lng in places])
    return read_csv(table)[1:]
